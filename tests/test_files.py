"""A file is written whole or not at all, and what fails says so in a sentence."""

from __future__ import annotations

import errno
import os

import pytest

from ssmscan.files import write_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_there_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"

    def write(temporary):
        assert temporary.parent == tmp_path and not path.exists()
        temporary.write_text("new")

    assert write_atomically(str(path), write) == path
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_atomically(tmp_path / "link.txt", lambda temporary: temporary.write_text("new"))
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_is_a_sentence_and_the_old_file_stays(tmp_path, there):
    path = tmp_path / "a.txt"
    if there:
        path.write_text("old")

    def write(temporary):
        temporary.write_text("half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"cannot save .*a\.txt: No space left on device \(.* MiB are free in") as caught:
        write_atomically(path, write)
    assert caught.value.errno == errno.ENOSPC
    assert ("the file that was there before is untouched" in str(caught.value)) == there
    assert names(tmp_path) == (["a.txt"] if there else [])
    assert not there or path.read_text() == "old"


def test_an_interrupt_leaves_nothing_behind(tmp_path):
    def write(temporary):
        temporary.write_text("half of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a.txt", write)
    assert names(tmp_path) == []


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path):
    def write(temporary):
        raise AssertionError("nothing is to be written")

    with pytest.raises(FileNotFoundError, match="the folder .*absent does not exist; make it first"):
        write_atomically(tmp_path / "absent" / "a.txt", write)
    with pytest.raises(IsADirectoryError, match="it is a folder; give the name of a file in it"):
        write_atomically(tmp_path, write)
