"""Several processes of one machine: the same rows."""

from __future__ import annotations

import pytest

from openjepa.embedding import embed, filling, open_store
from openjepa.embedding.parts import PartsFolder
from openjepa.errors import ConfigError


def test_two_processes_compute_the_same_rows(tmp_path, pictures, image_model, whole, same):
    seen: list[int] = []
    found = embed(
        pictures, image_model, tmp_path / "f.npz", batch_size=2, workers=0, device="cpu", jobs=2,
        on_progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    assert found.computed == 30
    same(open_store(found.path), whole)
    assert seen == sorted(seen)


@pytest.mark.slow
def test_what_a_process_says_comes_back_as_one_line(tmp_path, pictures, image_model):
    """The model vanishes between the parent's look and the children's."""
    import shutil

    model = tmp_path / "gone"
    shutil.copytree(image_model, model)
    from openjepa.embedding.work import Work

    work = Work(str(pictures), str(model), workers=0)
    job = work.open()
    folder = PartsFolder(tmp_path / "f.parts")
    folder.path.mkdir()
    folder.begin(job.plan(), job.order())
    shutil.rmtree(model)
    with pytest.raises(Exception, match="gone") as caught:
        filling.fill_with(2, work, folder, 8, 30, None)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_process_that_finds_other_weights_is_refused(tmp_path, pictures):
    """A random network is another one in each process."""
    pytest.importorskip("timm")
    with pytest.raises(ConfigError, match="found another model"):
        embed(pictures, "timm:test_vit@random", tmp_path / "f.npz", workers=0, device="cpu", jobs=2)


def test_a_model_in_memory_cannot_be_sent(tmp_path, pictures, image_model):
    import openjepa

    with pytest.raises(ConfigError, match="name it"):
        embed(pictures, openjepa.load(image_model), tmp_path / "f.npz", jobs=2, device="cpu")
