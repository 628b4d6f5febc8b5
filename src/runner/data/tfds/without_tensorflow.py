"""Lets TFDS prepare PNG images and the MNIST and CIFAR families without TensorFlow.

TFDS 4.9.10 reads without TensorFlow but prepares with it, for three things only: PNG
encoding, `tf.io.gfile` as a plain `open`, and one exception class. They are replaced
by name inside TFDS, whose version is pinned for that reason; no fake
`tensorflow` module is created. Images and their order are the same as with TensorFlow.
"""

import functools
import importlib
import importlib.util
import io
import sys
import types

# These use nothing of TensorFlow but tf.io.gfile.GFile (and the extractor, below).
_BUILDER_MODULES = (
    "tensorflow_datasets.image_classification.mnist",
    "tensorflow_datasets.image_classification.cifar",
)


NEEDS_TENSORFLOW = (
    "it needs TensorFlow. Install tensorflow, or prepare it elsewhere and give the "
    "prepared folder as data.name."
)


def is_tensorflow_missing(error: Exception) -> bool:
    # By its text, because TFDS re-raises such errors as other types.
    return "No module named 'tensorflow'" in str(error)


def install_if_needed() -> None:
    """Patches TFDS in this process; does nothing where TensorFlow is installed.

    Call it once the builder's class is imported: only what is loaded is patched.
    """
    if importlib.util.find_spec("tensorflow") is not None:
        return
    _patch_png_encoder()
    names = ("tensorflow_datasets.core.download.extractor", *_BUILDER_MODULES)
    for name in names:
        if name in sys.modules:
            vars(sys.modules[name])["tf"] = _stand_in()


@functools.cache
def _patch_png_encoder() -> None:
    from tensorflow_datasets.core.features import image_feature

    encoder = image_feature._ImageEncoder
    encode_with_tensorflow = encoder._encode_image

    def encode(self, np_image):
        # PNG is lossless, so any encoder will do. JPEG is not: it stays with TF.
        if self.encoding_format != "png":
            return encode_with_tensorflow(self, np_image)
        import PIL.Image

        image_feature._validate_np_array(
            np_image, shape=self.shape, dtype=self.np_dtype
        )
        pixels = np_image[..., 0] if np_image.shape[-1] == 1 else np_image
        buffer = io.BytesIO()
        PIL.Image.fromarray(pixels).save(buffer, format="png")
        return buffer.getvalue()

    encoder._encode_image = encode


@functools.cache
def _stand_in() -> types.SimpleNamespace:
    """The parts of `tf` that those modules use, and nothing more."""
    from etils import epath

    def open_file(path, mode="r"):
        return epath.Path(path).open(mode)

    return types.SimpleNamespace(
        errors=types.SimpleNamespace(InvalidArgumentError=ValueError),
        compat=types.SimpleNamespace(as_text=str),
        io=types.SimpleNamespace(gfile=types.SimpleNamespace(GFile=open_file)),
    )
