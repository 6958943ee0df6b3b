import multiprocessing
import os
import signal

from rl_crop.evaluation.claims import Claim


def hold(claim, connection):
    connection.send(os.getpid())
    signal.pause()


def test_one_alone_holds_a_claim_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "locks" / "cell"
    assert not Claim.is_held(path) and not path.parent.exists()  # asking writes nothing
    claim = Claim.take(path)
    assert Claim.take(path) is None and Claim.is_held(path)
    claim.release()
    assert not Claim.is_held(path) and list(path.parent.iterdir()) == []


def test_a_lock_on_a_file_that_was_removed_is_no_claim(tmp_path, monkeypatch):
    path = tmp_path / "cell"
    first = Claim.take(path)
    open_file = os.open

    def open_then_release(*args):
        fd = open_file(*args)
        monkeypatch.undo()
        first.release()  # between the second's opening of the file and its lock
        return fd

    monkeypatch.setattr(os, "open", open_then_release)
    second = Claim.take(path)
    assert second is not None and Claim.take(path) is None


def test_a_process_keeps_the_claim_of_its_killed_parent_and_a_kill_frees_it(tmp_path):
    path = tmp_path / "cell"
    claim = Claim.take(path)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(claim, theirs), daemon=True)
    process.start()
    ours.recv()
    os.close(claim.fd)  # as when this process is killed
    assert Claim.take(path) is None
    process.kill()
    process.join()
    again = Claim.take(path)
    assert again is not None
    again.release()


def test_one_of_two_holders_may_release_early_and_the_other_leaves_the_next_claim_alone(tmp_path):
    path = tmp_path / "cell"
    sent = Claim.take(path)
    Claim(path, os.dup(sent.fd)).release()
    following = Claim.take(path)
    assert following is not None
    sent.release()
    assert Claim.take(path) is None
    following.release()
    assert not path.exists()
