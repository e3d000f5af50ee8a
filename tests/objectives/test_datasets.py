"""Image folders and tables as splits, and one line on each fault that people's data have."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from objectives.checkpoints import load_checkpoint
from objectives.datasets import image_batches, image_folder, text_splits
from spaces import Split

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def images(folder: Path, *classes: str, count: int = 10) -> Path:
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (i, number, 0)).save(folder / name / f"{i}.png")
    return folder


def pixels(image: Image.Image) -> Tensor:
    return torch.tensor(image.getpixel((0, 0)))


def test_a_folder_of_classes_is_divided_alike_for_each_class(tmp_path: Path) -> None:
    found = image_folder(images(tmp_path, "b", "a"))
    assert found.classes == ("a", "b")
    assert "60 % train, 20 % validation, 20 % test" in found.notices[0]
    for split, count in zip(SPLITS, (12, 4, 4), strict=True):
        numbers = [number for _, number in found.files[split]]
        assert (numbers.count(0), numbers.count(1)) == (count // 2, count // 2)
    paths = [path for split in SPLITS for path, _ in found.files[split]]
    assert len(set(paths)) == 20
    image_folder.cache_clear()
    assert image_folder(tmp_path) == found


def test_splits_of_a_folder_are_kept_and_a_missing_one_is_half_of_the_other(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        images(tmp_path / "all" / name, "a", "b")
        images(tmp_path / "two" / name, "a", "b") if name != "test" else None
    kept = image_folder(tmp_path / "all")
    assert kept.notices == ()
    assert {s: len(f) for s, f in kept.files.items()} == dict.fromkeys(SPLITS, 20)
    halved = image_folder(tmp_path / "two")
    assert "has no test split: half of its validation split" in halved.notices[0]
    assert [len(halved.files[s]) for s in SPLITS] == [20, 10, 10]
    assert {p.parts[-3] for p, _ in halved.files["test"]} == {"val"}


def test_batches_have_the_pixels_and_the_classes_of_their_images(tmp_path: Path) -> None:
    found = image_folder(images(tmp_path, "a", "b"))
    for split in SPLITS:
        batches = list(image_batches(found, split, 5, pixels))
        inputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
        assert len(batches[0][0]) == min(5, len(inputs))
        assert torch.equal(inputs[:, 1], targets)
    again = torch.cat([x for x, _ in image_batches(found, "validation", 3, pixels)])
    assert torch.equal(
        again, torch.cat([x for x, _ in image_batches(found, "validation", 4, pixels)])
    )


def test_faults_of_an_image_folder_are_one_line(tmp_path: Path) -> None:
    def fault(folder: Path) -> str:
        with pytest.raises(ValueError, match=str(folder.name)) as error:
            image_folder(folder)
        return str(error.value)

    assert "there is no folder" in fault(tmp_path / "absent")
    (tmp_path / "flat").mkdir()
    assert "has no classes" in fault(tmp_path / "flat")
    assert "has one class, a" in fault(images(tmp_path / "one", "a"))
    assert "validation split" in fault(images(tmp_path / "few", "a", "b", count=1))
    images(tmp_path / "hollow", "a", "b")
    (tmp_path / "hollow" / "c").mkdir()
    assert "the class c" in fault(tmp_path / "hollow")
    images(tmp_path / "more" / "train", "a", "b")
    images(tmp_path / "more" / "val", "a", "z")
    assert "has the class z in validation and not in train" in fault(tmp_path / "more")
    images(tmp_path / "alike" / "train", "a", "b")
    images(tmp_path / "alike" / "val", "a")
    assert "the validation split of" in fault(tmp_path / "alike")
    images(tmp_path / "untrained" / "val", "a", "b")
    assert "but no train" in fault(tmp_path / "untrained")
    images(tmp_path / "twice" / "train", "a", "b")
    images(tmp_path / "twice" / "val", "a")
    images(tmp_path / "twice" / "dev", "a")
    assert "has both val and dev" in fault(tmp_path / "twice")
    with pytest.raises(ValueError, match=r"a model has 5 classes and .* has 2 classes \(a, b\)"):
        image_folder(images(tmp_path / "right", "a", "b")).require_classes(5, "a model")


def test_what_is_left_out_of_a_folder_is_told(tmp_path: Path) -> None:
    for name in ("train", "val", "test", "raw"):
        images(tmp_path / name, "a", "b")
    (tmp_path / "val" / "a" / "notes.txt").write_text("x")
    folders, files = image_folder(tmp_path).notices
    assert folders.startswith("raw of")
    assert files.startswith("1 files of")
    assert "notes.txt: names of images end in .bmp" in files


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    found = image_folder(images(tmp_path, "a", "b"))
    broken = found.files["test"][0][0]
    broken.write_text("no image")
    with pytest.raises(ValueError, match=f"{broken} cannot be read as an image"):
        list(image_batches(found, "test", 4, pixels))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_of_every_form_are_read_alike(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame({"sentence": ["null", "12", "a, b", "d"] * 5, "label": [0, 1] * 10})
    file = tmp_path / f"texts.{suffix}"
    match suffix:
        case "csv":
            table.to_csv(file, index=False)
        case "tsv":
            table.to_csv(file, index=False, sep="\t")
        case "jsonl":
            table.to_json(file, orient="records", lines=True)
        case _:
            table.to_parquet(file)
    splits, notice = text_splits(file)
    assert "is divided" in notice
    assert [len(splits[s].texts) for s in SPLITS] == [12, 4, 4]
    assert sorted(splits["test"].labels) == [0, 0, 1, 1]
    rows = {(t, y) for s in SPLITS for t, y in zip(splits[s].texts, splits[s].labels, strict=True)}
    assert rows == {("null", 0), ("12", 1), ("a, b", 0), ("d", 1)}


def test_a_folder_of_tables_has_its_own_splits(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        lines = [{"q": f"{name} {i}", "a": "more", "target": i % 2} for i in range(4)]
        text = "\n".join(map(json.dumps, lines))
        (tmp_path / f"{name}.jsonl").write_text(text)
    splits, notice = text_splits(tmp_path, text="q", pair="a")
    assert notice == ""
    assert splits["validation"].texts == tuple(f"dev {i}" for i in range(4))
    assert splits["validation"].pairs == ("more",) * 4


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.csv", "words,label\nx,1\n", "no column named text or .*, its columns are words, label"),
        ("a.csv", "text,y\nx,1\n", "no column named label or"),
        ("a.csv", "text,label\nx,\n", "1 rows without a value in the column 'label'"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.csv", "", "cannot be read as a table"),
        ("a.jsonl", "{", "cannot be read as a table"),
        ("a.jsonl", '{"text": 3, "label": 1}', "holds 3, which is no text"),
        ("a.xlsx", "x", "its name ends in '.xlsx', not in .csv"),
    ],
)
def test_faults_of_a_table_are_one_line(
    tmp_path: Path, name: str, content: str, fault: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=fault) as error:
        text_splits(tmp_path / name)
    assert len(str(error.value).splitlines()) == 1


def test_checkpoints_of_training_scripts_are_read(tmp_path: Path) -> None:
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    wrapped = {f"module.{name}": value for name, value in source.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, tmp_path / "a.pth")
    load_checkpoint(target, tmp_path / "a.pth", "the model")
    assert torch.equal(target.weight, source.weight)


def test_a_checkpoint_that_does_not_fit_is_told_by_its_first_difference(tmp_path: Path) -> None:
    def fault(content: object) -> str:
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=r"a\.pth") as error:
            load_checkpoint(torch.nn.Linear(3, 2), tmp_path / "a.pth", "the model")
        assert len(str(error.value).splitlines()) == 1
        return str(error.value)

    assert "weight has shape [4, 3], the model's [2, 3]" in fault(
        torch.nn.Linear(3, 4).state_dict()
    )
    assert "it lacks bias" in fault({"weight": torch.zeros(2, 3)})
    more = torch.nn.Linear(3, 2).state_dict() | {"x": torch.zeros(1), "y": torch.zeros(1)}
    assert "the model has no x and 1 more tensors" in fault(more)
    assert "it holds a dict with epoch" in fault({"epoch": 3})
    assert "cannot be read as a state dict" in fault(torch.nn.Linear(3, 2))
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        load_checkpoint(torch.nn.Linear(3, 2), tmp_path / "text.pth", "the model")
    with pytest.raises(ValueError, match="there is no checkpoint"):
        load_checkpoint(torch.nn.Linear(3, 2), tmp_path / "absent.pth", "the model")
