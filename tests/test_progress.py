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
