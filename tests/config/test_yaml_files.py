"""A mistake in a YAML file of one's own is one message with the file and its line."""

import pytest

from runner.cli import main

HEAD = "_target_: my_lab.parts.model\n"
# The contents of conf/model/bad.yaml, and what the message says after its name.
MISTAKEN = {
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


@pytest.fixture
def told(monkeypatch, tmp_path, capsys):
    """The one message of a command in a folder with a file of one's own."""

    def told(content: str | bytes, *arguments: str) -> str:
        folder = tmp_path / "conf/model"
        folder.mkdir(parents=True)
        content = content.encode() if isinstance(content, str) else content
        (folder / "bad.yaml").write_bytes(content)
        (folder / "worse.yaml").write_text("defaults: [bad]\n", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        monkeypatch.setattr("sys.argv", ["runner", *arguments])
        monkeypatch.setattr("runner.job.run.run_job", None)
        with pytest.raises(SystemExit) as caught:
            main()
        assert "Traceback" not in capsys.readouterr().err
        message = str(caught.value.code)
        assert message.startswith("error: ") and "\n" not in message
        return message

    return told


@pytest.mark.parametrize("case", MISTAKEN.values(), ids=MISTAKEN)
def test_a_mistake_is_one_message_with_file_and_line(told, tmp_path, case):
    content, *said = case
    message = told(content, "--config-dir", "conf", "model=bad")
    assert message.startswith(f"error: {tmp_path}/conf/model/bad.yaml")
    assert all(part in message for part in said), message


@pytest.mark.parametrize("case", OF_DEFAULTS.values(), ids=OF_DEFAULTS)
def test_so_is_one_in_a_list_of_defaults(told, case):
    content, *said = case
    message = told(content, "--config-dir", "conf", "model=bad")
    assert all(part in message for part in said), message


@pytest.mark.parametrize("where", ["file:///nowhere", "pkg://no.pkg", "nowhere"])
def test_a_search_path_to_nowhere_is_refused(told, where):
    assert f"{where}, which is not" in told(HEAD, f"hydra.searchpath=['{where}']")
