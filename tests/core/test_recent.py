from runner.core.recent import Recent


def test_the_last_few_are_made_once():
    made = []

    def make(name):
        return lambda: made.append(name) or name.upper()

    recent = Recent(2)
    for name in ("a", "b", "a", "b"):
        assert recent.get(name, make(name)) == name.upper()
    assert made == ["a", "b"]
    recent.get("c", make("c"))  # and the oldest goes
    recent.get("b", make("b"))
    recent.get("a", make("a"))
    assert made == ["a", "b", "c", "a"]
