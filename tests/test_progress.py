from s2pipe.progress import progress_bar


def test_outside_a_terminal_every_tenth_is_a_line(capsys):
    with progress_bar() as report:
        for step in range(1, 41):
            report("training", step, 40, 1 / step)
            report("writing", step, 40, None)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 20
    assert lines[0] == "training: 10 % (4 of 40) loss 2.50e-01"
    assert lines[1] == "writing: 10 % (4 of 40)"
    assert lines[-1] == "writing: 100 % (40 of 40)"


def test_in_a_terminal_it_is_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar() as report:
        report("training", 3, 40, 0.5)
    shown = capsys.readouterr().err
    assert "training" in shown and "3/40" in shown and "\x1b[" in shown


def test_of_what_is_done_in_one_step_a_line_says_that_it_began(capsys):
    with progress_bar() as report:
        report("3 of 17: atprk", 0, 1, None)
        report("3 of 17: atprk", 1, 1, None)
    assert capsys.readouterr().err.splitlines() == ["3 of 17: atprk"]


def test_in_a_terminal_only_what_is_not_done_is_shown(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar() as report:
        report("1 of 2: bicubic", 0, 1, None)
        report("1 of 2: bicubic", 1, 1, None)
        before = len(capsys.readouterr().err)
        report("2 of 2: glp", 0, 1, None)
    shown = capsys.readouterr().err
    assert before > 0 and "2 of 2: glp" in shown and "bicubic" not in shown
