import pytest
import torch

from util.errors import ToldElsewhere, UserError
from util.exit_codes import FAILED, FINISHED, INTERRUPTED, MISTAKE, REQUEUE, run_to_exit_code
from util.preemption import Preempted

ENDS = [
    (None, FINISHED, ""),
    (Preempted(), REQUEUE, ""),
    (ToldElsewhere(), MISTAKE, ""),
    (ToldElsewhere(FAILED), FAILED, ""),
    (UserError("mend it"), MISTAKE, "mend it"),
    (FloatingPointError("loss nan"), FAILED, "loss nan"),
    (torch.OutOfMemoryError("CUDA out of memory.\nmany lines"), FAILED, "CUDA out of memory. Lower batch_size"),
    (KeyboardInterrupt(), INTERRUPTED, "interrupted; the same command goes on from what was saved"),
    (PermissionError(13, "Permission denied", "logs/x"), MISTAKE, "logs/x: Permission denied; check the permissions"),
]


@pytest.mark.parametrize(("error", "code", "said"), ENDS)
def test_every_end_has_its_code_and_its_words(error, code, said, capsys, monkeypatch, tmp_path):
    def work():
        if error is not None:
            raise error

    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "code"))
    assert run_to_exit_code(work) == code
    err = capsys.readouterr().err
    assert (said in err) if said else err == ""
    assert "many lines" not in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ([f"{code}\n"] if code else [])


def test_the_first_rank_that_fails_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "code"))
    (tmp_path / "code").write_text("75\n")
    assert run_to_exit_code(lambda: (_ for _ in ()).throw(UserError("late"))) == MISTAKE
    assert (tmp_path / "code").read_text() == "75\n"


def test_a_place_for_the_code_that_does_not_exist_is_told(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("EXIT_CODE_FILE", str(tmp_path / "absent/code"))
    assert run_to_exit_code(lambda: (_ for _ in ()).throw(UserError("mend it"))) == MISTAKE
    assert "it is where EXIT_CODE_FILE wants the exit code 2" in capsys.readouterr().err
