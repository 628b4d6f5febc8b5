"""Files of one's own, conf/model/bad.yaml, that can't be read."""

HEAD = "_target_: my_lab.parts.model\n"
# The contents of conf/model/bad.yaml, and what the message says after its name.
FILES = {
    "a tab": (HEAD + "\twidth: 3\n", ", line 2: found"),
    "an open bracket": (HEAD + "sizes: [1, 2\n", ", line 3: ", "from line 2 on"),
    "an open quote": (HEAD + "name: 'b\n", ", line 3: ", "from line 2 on"),
    "a key twice": (HEAD + "a: 3\na: 4\n", ", line 3: found duplicate key a"),
    "a key twice, inside": (HEAD + "a:\n  b: 3\n  b: 4\n", ", line 4: found dup"),
    "a whole number as key": (HEAD + "1: 2\n", ", line 2: the key 1 must be text"),
    "a number as key": (HEAD + "1.5: 2\n", ", line 2: the key 1.5 must be text"),
    "true as key": (HEAD + "true: 2\n", ", line 2: the key True must be text"),
    "null as key": (HEAD + "~: 2\n", "Incompatible key type"),
    "a list as key": (HEAD + "[1, 2]: 2\n", ", line 2: found unhashable key"),
    "another colon": (HEAD + "a: b: c\n", ", line 2: mapping values are not allowed"),
    "an indent": (HEAD + "  a: b\n", ", line 2: mapping values are not allowed"),
    "a tag": (HEAD + "a: !!python/name:os.system\n", ", line 2: could not determine"),
    "a set": (HEAD + "a: !!set {x}\n", "'set' is not a supported primitive type"),
    "an unknown alias": (HEAD + "a: *b\n", ", line 2: found undefined alias"),
    "a merge of text": (HEAD + "<<: 3\n", ", line 2: expected a mapping"),
    "two documents": (HEAD + "---\na: 2\n", ", line 2: "),
    "an open reference": (HEAD + "a: ${b\n", "a: no viable alternative"),
    "latin-1": ((HEAD + "a: é\n").encode("latin-1"), ", line 2: the byte 0xe9 is not"),
    "utf-16": (HEAD.encode("utf-16"), ", line 1: the byte 0xff is not UTF-8"),
    "a zero byte": (HEAD + "a: \0\n", ", line 2: control characters"),
    "a list": ("- 1\n- 2\n", ", line 1: it must have keys"),
    "a number": ("3\n", "int"),
    "defaults that are no list": ("defaults: mlp\n", "defaults must be a list"),
    "a number in defaults": ("defaults: [3]\n", "Unsupported type in defaults : int"),
}
# The same, of which Hydra names the file itself, without its folder.
OF_DEFAULTS = {
    "a missing default": ("defaults: [mlpp, _self_]\n", "'model/bad'", "'model/mlpp'"),
    "a missing group": ("defaults: [/foo: mlp]\n", "model/bad: foo=mlp is not one of"),
    "a loop": ("defaults: [bad]\n", "model/bad.yaml", "model/bad -> model/bad"),
    "a long loop": ("defaults: [worse]\n", "model/bad -> model/worse -> model/bad"),
    "a loop of packages": ("defaults: [/model@own: bad]\n", "model/bad -> model/bad"),
}
# Contents of conf/experiment/bad.yaml, which sets what is in several sections.
GLOBAL = "# @package _global_\n"
EXPERIMENTS = {
    "no package": ("train: {epochs: 1}\n", "must be `# @package _global_`"),
    "no package, defaults": (
        "defaults: [override /optimizer: sgd]\n",
        "must be `# @package _global_`",
    ),
    "no override": (
        GLOBAL + "defaults: [optimizer: sgd]\n",
        "written `- override /optimizer: sgd`",
    ),
    "no slash": (
        GLOBAL + "defaults: [override optimizer: sgd]\n",
        "written `- override /optimizer: NAME`",
    ),
    "a slash alone": (
        GLOBAL + "defaults: [/optimizer: sgd]\n",
        "optimizer has a choice already",
        "`- override /optimizer: ...`",
    ),
    "no colon": (GLOBAL + "train:\n  epochs 1\n", "train=epochs 1 must be a section"),
    "a section of one": (GLOBAL + "train: {stop: 5}\n", "train.stop=5 must be a sect"),
    "text": (GLOBAL + "train: {epochs: ten}\n", "train.epochs=ten must be a whole"),
    "a list": (GLOBAL + "seed: [0, 1]\n", "bad: seed=[0, 1] must be a whole number"),
    "null": (GLOBAL + "tracker: null\n", "tracker=null must be a mapping"),
    "a choice as mapping": (GLOBAL + "tracker: csv\n", "`- override /tracker: NAME`"),
}
