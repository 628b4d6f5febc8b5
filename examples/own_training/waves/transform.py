"""What happens to a batch in the compiled step."""

import jax


def noise(*, column, size):
    """Add normal noise in training; none in evaluation, where there is no key."""

    def transform(batch, key, train):
        if not train:
            return batch
        values = batch[column]
        return batch | {column: values + size * jax.random.normal(key, values.shape)}

    return transform
