"""Pictures in the formats in which they are distributed, on small files of those formats."""

from __future__ import annotations

import csv
import io
import pickle
import random
import shutil
import tarfile

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from clew.datasets import fingerprint, open_dataset
from clew.datasets.stored import object_mask
from clew.errors import InputError, OptionError

RNG = np.random.default_rng(0)


def noise(height=5, width=8):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path, image, mode=None, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image, mode)).save(path, **more)
    return path


def palette(values):
    image = Image.fromarray(values.astype(np.uint8)).convert("L").convert("P")
    image.putdata(values.astype(np.uint8).ravel().tolist())
    return image


def table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
        writer.writerows(rows)
    return path


# --- ImageNet-Segmentation ------------------------------------------------------------------------------------------


def guillaumin(path, images, masks, ids=None, wnids=None):
    """A file as MATLAB 7.3 writes it: a struct array of which each field is a column of references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        refs, count = file.create_group("#refs#"), [0]

        def refer(array, kind=None):
            count[0] += 1
            return refs.create_dataset(f"r{count[0]}", data=array, dtype=kind).ref

        def text(words):
            return refer(np.array([[ord(c)] for c in words], dtype=np.uint16))

        def cell(mask):
            return refer(np.array([[refer(mask.T.astype(np.uint8))]], dtype=h5py.ref_dtype), h5py.ref_dtype)

        fields = {"img": [refer(i.transpose(2, 1, 0)) for i in images], "gt": [cell(m) for m in masks]}
        fields |= {"id": [text(i) for i in ids]} if ids else {}
        fields |= {"target": [text(w) for w in wnids]} if wnids else {}
        for name, column in fields.items():
            data = np.array(column, dtype=h5py.ref_dtype)[:, None]
            file.create_dataset(f"value/{name}", data=data, dtype=h5py.ref_dtype)
    return path


@pytest.fixture
def segmented(tmp_path):
    images = [noise(5, 8), noise(7, 4)]
    masks = [RNG.integers(0, 2, image.shape[:2]) for image in images]
    ids, wnids = ["n01443537_9651", "n02690373_4225"], ["n01443537", "n02690373"]
    return guillaumin(tmp_path / "gtsegs_ijcv.mat", images, masks, ids, wnids), images, masks, ids, wnids


def test_imagenet_segmentation(segmented):
    path, images, masks, ids, wnids = segmented
    data = open_dataset(path)
    assert data.name == "gtsegs_ijcv.mat" and list(data.ids) == ids and data.classes is None
    for index in (1, 0):
        example = data.read(index)
        assert np.array_equal(np.asarray(example.image), images[index])
        assert example.mask.dtype == np.int8 and np.array_equal(example.mask, masks[index])
        assert example.label == wnids[index]


def test_imagenet_segmentation_as_others_read_it(segmented):
    path, *_ = segmented
    data = open_dataset(path)
    with h5py.File(path) as f:
        for i in range(2):
            image = np.array(f[f["/value/img"][i, 0]]).transpose((2, 1, 0))
            mask = np.array(f[f[f["/value/gt"][i, 0]][0, 0]]).transpose((1, 0))
            assert np.array_equal(np.asarray(data.read(i).image), image)
            assert np.array_equal(data.read(i).mask, mask)


def test_imagenet_segmentation_by_a_models_classes(segmented):
    path, *_ = segmented
    data = open_dataset(path, classes=["n02690373", "n09999999"])
    assert [data.read(i).label for i in range(2)] == [None, 0]


def test_imagenet_segmentation_can_be_pickled(segmented):
    path, *_ = segmented
    data = open_dataset(path)
    data.read(0)
    other = pickle.loads(pickle.dumps(data))
    assert fingerprint(other) == fingerprint(data)


def test_imagenet_segmentation_without_names(tmp_path):
    data = open_dataset(guillaumin(tmp_path / "a.mat", [noise()] * 3, [np.ones((5, 8))] * 3))
    assert list(data.ids) == ["0000", "0001", "0002"] and data.read(2).label is None


def test_files_that_are_no_imagenet_segmentation(tmp_path):
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(InputError, match="cannot be opened"):
        open_dataset(tmp_path / "old.mat")
    with h5py.File(tmp_path / "other.mat", "w") as file:
        file["something"] = 1
    with pytest.raises(InputError, match=r"value/img.*\n.*something"):
        open_dataset(tmp_path / "other.mat")
    path = guillaumin(tmp_path / "sizes.mat", [noise(), noise()], [np.ones((5, 8)), np.ones((5, 7))])
    data = open_dataset(path)
    assert data.read(0).mask.shape == (5, 8)
    with pytest.raises(InputError, match=r"picture 1 has another size"):
        data.read(1)


# --- pictures in folders --------------------------------------------------------------------------------------------


def test_folders_of_classes(tmp_path):
    names = ["truck/0000.png", "airplane/0001.png", "airplane/0000.png", "cat/deep/0002.jpeg"]
    arrays = {name: noise(32, 32) for name in names}
    for name, array in arrays.items():
        save(tmp_path / name, array)
    data = open_dataset(tmp_path)
    assert list(data.ids) == ["airplane/0000", "airplane/0001", "cat/deep/0002", "truck/0000"]
    assert list(data.classes) == ["airplane", "cat", "truck"]
    assert [data.read(i).label for i in range(4)] == [0, 0, 1, 2]
    assert np.array_equal(np.asarray(data.read(3).image), arrays["truck/0000.png"])
    assert data.read(3).mask is None and data.read(3).text is None


def test_folders_by_the_order_of_a_models_classes(tmp_path):
    for name in ("dog/a.png", "cat/a.png"):
        save(tmp_path / name, noise())
    (tmp_path / "names.txt").write_text("frog\ndog\ncat\n")
    for classes in (["frog", "dog", "cat"], str(tmp_path / "names.txt")):
        data = open_dataset(tmp_path, "images", classes=classes)
        assert {data.read(i).id: data.read(i).label for i in range(2)} == {"cat/a": 2, "dog/a": 1}
        assert list(data.classes) == ["frog", "dog", "cat"]
    with pytest.raises(InputError, match=r"frog, cat\n.*dog"):
        open_dataset(tmp_path, "images", classes=["frog", "cat"])
    with pytest.raises(OptionError, match="twice: cat"):
        open_dataset(tmp_path, "images", classes=["dog", "cat", "cat"])


def test_folders_with_numbers_are_sorted_by_name(tmp_path):
    for name in ("5", "3", "7"):
        save(tmp_path / name / "a.png", noise())
    data = open_dataset(tmp_path)
    assert list(data.classes) == ["3", "5", "7"] and [data.read(i).label for i in range(3)] == [0, 1, 2]


def test_pictures_without_classes(tmp_path):
    save(tmp_path / "flat" / "a.png", noise())
    save(tmp_path / "one" / "pictures" / "a.png", noise())
    for place, id in (("flat", "a"), ("one", "pictures/a")):
        data = open_dataset(tmp_path / place)
        assert list(data.ids) == [id] and data.classes is None and data.read(0).label is None
    assert open_dataset(tmp_path / "one", classes=["pictures"]).read(0).label == 0
    save(tmp_path / "one" / "b.png", noise())
    with pytest.raises(InputError, match="some do not"):
        open_dataset(tmp_path / "one")


def test_two_files_of_one_name_have_two_ids(tmp_path):
    save(tmp_path / "a.png", noise())
    save(tmp_path / "a.jpg", noise())
    save(tmp_path / "a#2.png", noise())
    assert sorted(open_dataset(tmp_path).ids) == ["a", "a#2", "a#3"]


def test_a_table_of_labels_for_pictures(tmp_path):
    for name in ("x/a.png", "y/b.png", "y/c.png"):
        save(tmp_path / name, noise())
    table(tmp_path / "labels.csv", [["image", "class"], ["y/c.png", "dog"], ["a", "cat"], ["gone.png", "dog"]])
    data = open_dataset(tmp_path, kind="images", labels="labels.csv")
    assert list(data.ids) == ["y/c", "x/a", "gone.png"] and list(data.classes) == ["cat", "dog"]
    assert data.read(0).label == 1 and data.read(1).label == 0
    with pytest.raises(InputError, match=r"gone\.png"):
        data.read(2)
    table(tmp_path / "others.csv", [["image", "class"], ["q.png", "dog"]])
    with pytest.raises(InputError, match="names no picture that is there"):
        open_dataset(tmp_path, kind="images", labels="others.csv")
    with pytest.raises(InputError, match="no table"):
        open_dataset(tmp_path, kind="images", labels="missing.csv")
    table(tmp_path / "headless.csv", [["y/c.png", "dog"]])
    with pytest.raises(OptionError, match="lacks columns"):
        open_dataset(tmp_path, kind="images", labels="headless.csv")


def test_a_broken_picture_raises_only_when_it_is_read(tmp_path):
    save(tmp_path / "cat" / "a.png", noise(60, 60))
    (tmp_path / "cat" / "b.png").write_bytes((tmp_path / "cat" / "a.png").read_bytes()[:900])
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "c.png").write_text("no picture")
    data = open_dataset(tmp_path)
    assert len(data) == 3 and data.read(0).label == 0
    for index in (1, 2):
        with pytest.raises(InputError, match=data.ids[index]):
            data.read(index)
    (tmp_path / "cat" / "a.png").unlink()
    with pytest.raises(InputError, match="nothing there"):
        data.read(0)


# --- ImageNet -------------------------------------------------------------------------------------------------------

WNIDS = ["n01440764", "n01443537", "n01484850", "n15075141"]  # tench, goldfish, great white shark, toilet tissue
PLACES = [0, 1, 2, 999]
# The devkit numbers classes in an order of its own; numbers above 1,000 are groups of them.
DEVKIT = {3: "n01440764", 1: "n01443537", 4: "n01484850", 2: "n15075141"}
TRUTH = [2, 3, 3, 1, 4]
LABELS = [999, 0, 0, 1, 2]


def picture_name(number):
    return f"ILSVRC2012_val_{number:08d}.JPEG"


@pytest.fixture
def flat(tmp_path):
    folder = tmp_path / "val"
    for number in range(1, 6):
        save(folder / picture_name(number), noise())
    return folder


def meta_mat(path, devkit):
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(float(n), w, "word", "gloss", 0.0) for n, w in devkit.items()] + [(1001.0, "n00001740", "a", "b", 5.0)]
    synsets = np.array(rows, dtype=kinds)[:, None]
    scipy.io.savemat(path, {"synsets": synsets})
    return path


def complete_devkit():
    """The devkit's numbers for 1,000 classes: those above, and others in between."""
    others = [f"n0{2_000_000 + i}" for i in range(996)]
    return dict(DEVKIT) | {i + 5: w for i, w in enumerate(others)}


@pytest.fixture
def devkit(tmp_path):
    folder = tmp_path / "ILSVRC2012_devkit_t12"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{n}\n" for n in TRUTH))
    meta_mat(folder / "data" / "meta.mat", complete_devkit())
    return folder


def by_id(data):
    return {data.read(i).id: data.read(i).label for i in range(len(data))}


EXPECTED = {picture_name(i + 1).removesuffix(".JPEG"): label for i, label in enumerate(LABELS)}


def test_the_devkits_numbers_become_positions_among_sorted_wordnet_ids(flat, devkit, tmp_path):
    packed = tmp_path / "devkit.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(devkit, devkit.name)
    truth = devkit / "data" / "ILSVRC2012_validation_ground_truth.txt"
    for labels in (devkit, packed, truth):
        data = open_dataset(flat, labels=labels)
        assert by_id(data) == EXPECTED
        assert list(data.classes) == sorted(complete_devkit().values())
    lonely = shutil.copy(truth, tmp_path / truth.name)
    with pytest.raises(InputError, match=r"meta\.mat"):
        open_dataset(flat, labels=lonely)
    assert by_id(open_dataset(flat, labels=lonely, meta=devkit / "data" / "meta.mat")) == EXPECTED


def test_imagenet_labels_in_other_forms(flat, tmp_path):
    wnid = dict(zip(PLACES, WNIDS, strict=True))
    names = [picture_name(i) for i in range(1, 6)]
    files = {
        "wnids.txt": "".join(f"{wnid[label]}\n" for label in LABELS),
        "indices.txt": "".join(f"{label}\n" for label in LABELS),
        "val_map.txt": "".join(f"{n} {label}\n" for n, label in reversed(list(zip(names, LABELS, strict=True)))),
        "LOC_val_solution.csv": "ImageId,PredictionString\n"
        + "".join(f"{n[:-5]},{wnid[label]} 85 1 499 272 \n" for n, label in zip(names, LABELS, strict=True)),
        "table.tsv": "image\tclass_index\n" + "".join(f"{n}\t{i}\n" for n, i in zip(names, LABELS, strict=True)),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        data = open_dataset(flat, labels=tmp_path / name)
        assert by_id(data) == EXPECTED, name
        assert (data.classes is None) == (name not in ("wnids.txt", "LOC_val_solution.csv")), name


def test_lines_of_labels_count_picture_numbers_not_the_pictures_that_are_there(flat, tmp_path):
    (tmp_path / "indices.txt").write_text("".join(f"{label}\n" for label in LABELS))
    (flat / picture_name(2)).unlink()
    expected = {name: label for name, label in EXPECTED.items() if not name.endswith("2")}
    assert by_id(open_dataset(flat, labels=tmp_path / "indices.txt")) == expected
    (tmp_path / "short.txt").write_text("".join(f"{label}\n" for label in LABELS[:3]))
    with pytest.raises(InputError, match="no labels for 2 of 4 pictures"):
        open_dataset(flat, labels=tmp_path / "short.txt")


def test_the_devkits_numbers_are_not_taken_for_indices(flat, tmp_path):
    (tmp_path / "renamed.txt").write_text("1\n1000\n3\n4\n5\n")
    with pytest.raises(InputError, match=r"1000\n.*devkit"):
        open_dataset(flat, labels=tmp_path / "renamed.txt")


def test_imagenet_in_every_layout_has_the_same_examples_in_the_same_order(flat, devkit, tmp_path):
    wnid = dict(zip(PLACES, WNIDS, strict=True))
    root, together, folders = tmp_path / "root", tmp_path / "together", tmp_path / "folders"
    for path in (root, together):
        path.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
        for path in sorted(flat.iterdir()):
            tar.add(path, path.name)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
        tar.add(devkit, devkit.name)
    shutil.copytree(flat, together, dirs_exist_ok=True)
    for number, label in enumerate(LABELS, 1):
        (folders / "val" / wnid[label]).mkdir(parents=True, exist_ok=True)
        shutil.copy(flat / picture_name(number), folders / "val" / wnid[label])
    # The true 1,000 ids, which timm knows, have other positions than those of the made-up devkit.
    by_number = "".join(f"{n} {label}\n" for n, label in zip(map(picture_name, range(1, 6)), LABELS, strict=True))
    (together / "val_map.txt").write_text(by_number)
    places = (root, root / "ILSVRC2012_img_val.tar", together, folders, folders / "val")
    layouts = [open_dataset(place) for place in places]
    order = sorted(EXPECTED, key=lambda name: (EXPECTED[name], name))
    for data in layouts:
        assert list(data.ids) == order and by_id(data) == EXPECTED
        assert fingerprint(data) == fingerprint(layouts[0])
    assert layouts[3].classes[999] == "n15075141" and len(layouts[3].classes) == 1000


def test_imagenet_without_labels(flat):
    data = open_dataset(flat)
    assert list(data.ids) == list(EXPECTED) and set(by_id(data).values()) == {None} and data.classes is None


def test_a_subset_of_imagenet_by_positions(flat, devkit, tmp_path):
    np.save(tmp_path / "pert_index.npy", np.array([4, 0]))
    data = open_dataset(flat, labels=devkit, subset=tmp_path / "pert_index.npy")
    assert [data.read(i).label for i in range(2)] == [999, 0]


def test_names_for_the_classes_of_imagenet(flat, devkit, tmp_path):
    names = [f"name {i}" for i in range(1000)]
    data = open_dataset(flat, labels=devkit, classes=names)
    assert data.classes[data.read(0).label] == "name 0" and by_id(data) == EXPECTED
    with pytest.raises(OptionError, match="names of all classes"):
        open_dataset(flat, labels=devkit, classes=names[:10])


def test_a_part_of_imagenets_classes_with_ids_told(tmp_path):
    for wnid in ("n00000003", "n00000001"):
        save(tmp_path / wnid / f"{wnid}.JPEG", noise())
    with pytest.raises(InputError, match="no classes of ImageNet"):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, wnids=["n00000001", "n00000002", "n00000003"])
    assert by_id(data) == {"n00000001": 0, "n00000003": 2}


def test_folders_that_are_no_wordnet_ids_are_no_imagenet(tmp_path):
    for name in ("tench", "goldfish"):
        save(tmp_path / name / "a.JPEG", noise())
    with pytest.raises(InputError, match="kind='images'"):
        open_dataset(tmp_path, kind="imagenet")
    assert list(open_dataset(tmp_path).classes) == ["goldfish", "tench"]


# --- pictures and masks ---------------------------------------------------------------------------------------------


def encoded(image, format="PNG"):
    stream = io.BytesIO()
    image.save(stream, format)
    return stream.getvalue()


def test_masks_pixel_by_pixel():
    classes = np.array([[0, 15, 255], [1, 0, 20]])
    voc = encoded(palette(classes))
    assert Image.open(io.BytesIO(voc)).mode == "P"
    twin = np.array([[-1 if v == 255 else int(v > 0) for v in row] for row in classes.tolist()])
    assert np.array_equal(object_mask(voc, "m"), twin) and object_mask(voc, "m").dtype == np.int8
    assert np.array_equal(object_mask(voc, "m", None), (classes > 0).astype(int))
    assert np.array_equal(object_mask(voc, "m", 15), np.where(classes == 15, -1, classes > 0))
    grey = np.array([[0, 255, 128], [127, 0, 200]], np.uint8)
    expected = np.array([[0, 1, 1], [0, 0, 1]])
    assert np.array_equal(object_mask(encoded(Image.fromarray(grey)), "m"), expected)
    assert np.array_equal(object_mask(encoded(Image.fromarray(grey).convert("RGB")), "m"), expected)
    assert np.array_equal(object_mask(encoded(Image.fromarray(grey).convert("LA")), "m"), expected)
    assert np.array_equal(object_mask(encoded(Image.fromarray(grey > 127)), "m"), expected)
    assert np.array_equal(object_mask(encoded(Image.fromarray(grey.astype(np.uint16) * 257)), "m"), expected)
    assert np.array_equal(object_mask(encoded(Image.fromarray((grey > 127).astype(np.uint8))), "m"), expected)
    assert not object_mask(encoded(Image.new("L", (3, 2))), "m").any()
    assert not object_mask(encoded(Image.new("P", (3, 2))), "m").any()


def test_masks_that_may_mean_two_things():
    both = encoded(palette(np.array([[0, 255], [255, 0]])))
    with pytest.raises(InputError, match="two things"):
        object_mask(both, "m")
    assert object_mask(both, "m", None).tolist() == [[0, 1], [1, 0]]
    assert object_mask(both, "m", 255).tolist() == [[0, -1], [-1, 0]]
    numbers = encoded(Image.fromarray(np.array([[0, 1], [2, 15]], np.uint8)))
    with pytest.raises(InputError, match="values up to 15"):
        object_mask(numbers, "m")
    assert object_mask(numbers, "m", 255).tolist() == [[0, 1], [1, 1]]
    with pytest.raises(InputError, match="is coloured"):
        object_mask(encoded(Image.fromarray(noise())), "m")


def square(height=6, width=8):
    mask = np.zeros((height, width), np.uint8)
    mask[1:4, 2:7] = 255
    return mask


@pytest.mark.parametrize(
    ("images", "masks", "options"),
    [
        ("images", "masks", {}),
        ("JPEGImages/480p", "Annotations/480p", {}),
        ("JPEGImages", "Annotations", {}),
        ("photos/jpg", "truth", {"kind": "masks", "images": "photos/jpg", "masks": "truth"}),
    ],
)
def test_pictures_with_masks_of_the_same_names(images, masks, options, tmp_path):
    arrays = {name: noise(6, 8) for name in ("bear/00000", "bear/00001", "swan/00000")}
    for name, array in arrays.items():
        save(tmp_path / images / f"{name}.png", array)
        save(tmp_path / masks / f"{name}.png", square())
    save(tmp_path / images / "unmarked.png", noise(6, 8))
    data = open_dataset(tmp_path, **options)
    assert list(data.ids) == list(arrays)  # what has no mask is no example
    for i, name in enumerate(arrays):
        example = data.read(i)
        assert np.array_equal(np.asarray(example.image), arrays[name])
        assert np.array_equal(example.mask, square() // 255)
    other = pickle.loads(pickle.dumps(data))
    assert fingerprint(other) == fingerprint(data)


def test_pascal_voc(tmp_path):
    classes = np.zeros((6, 8))
    classes[2:4, 2:6], classes[1, :] = 15, 255
    for name in ("2007_000032", "2007_000033", "2008_000001"):
        save(tmp_path / "JPEGImages" / f"{name}.jpg", noise(6, 8))
        if name != "2008_000001":
            save(tmp_path / "SegmentationClass" / f"{name}.png", palette(classes))
    for list_of, names in {"Segmentation": "2007_000033", "Main": "2007_000033 -1\n2008_000001 1"}.items():
        (tmp_path / "ImageSets" / list_of).mkdir(parents=True)
        (tmp_path / "ImageSets" / list_of / "val.txt").write_text(names + "\n")
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "2007_000032.xml").write_text("<annotation/>")
    data = open_dataset(tmp_path)
    assert list(data.ids) == ["2007_000032", "2007_000033"]
    mask = data.read(0).mask
    assert (mask[1] == -1).all() and (mask[2:4, 2:6] == 1).all() and mask.sum() == 8 - 8
    assert list(open_dataset(tmp_path, split="val").ids) == ["2007_000033"]
    with pytest.raises(OptionError, match="no list for split 'test'"):
        open_dataset(tmp_path, split="test")


def test_greyscale_masks_of_classes_in_pascal_vocs_layout(tmp_path):
    classes = np.zeros((6, 8), np.uint8)
    classes[2, 2], classes[3, 3] = 15, 255
    save(tmp_path / "JPEGImages" / "a.jpg", noise(6, 8))
    save(tmp_path / "SegmentationClass" / "a.png", classes)
    mask = open_dataset(tmp_path).read(0).mask
    assert mask[2, 2] == 1 and mask[3, 3] == -1 and (mask != 0).sum() == 2
    save(tmp_path / "SegmentationClassAug" / "a.png", classes)
    mask = open_dataset(tmp_path, masks="SegmentationClassAug").read(0).mask
    assert mask[2, 2] == 1 and mask[3, 3] == -1


def test_lists_of_davis(tmp_path):
    for name in ("bear/00000", "bear/00001", "swan/00000"):
        save(tmp_path / "JPEGImages" / "480p" / f"{name}.jpg", noise(6, 8))
        save(tmp_path / "Annotations" / "480p" / f"{name}.png", square())
    lists = {
        "2017": "bear\n",
        "480p": "/JPEGImages/480p/swan/00000.jpg /Annotations/480p/swan/00000.png\n"
        "/JPEGImages/480p/bear/00001.jpg /Annotations/480p/bear/00001.png\n",
    }
    for year, text in lists.items():
        (tmp_path / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "ImageSets" / year / "val.txt").write_text(text)
    with pytest.raises(OptionError, match="several lists"):
        open_dataset(tmp_path, split="val")
    assert list(open_dataset(tmp_path, split="ImageSets/2017/val.txt").ids) == ["bear/00000", "bear/00001"]
    assert list(open_dataset(tmp_path, split="ImageSets/480p/val.txt").ids) == ["bear/00001", "swan/00000"]


@pytest.fixture
def frames(tmp_path):
    for name in ("bear_00000", "swan_00000", "swan_00001"):
        save(tmp_path / "images" / f"{name}.png", noise(6, 8))
        save(tmp_path / "masks" / f"{name}.png", square())
    return tmp_path


CROPS = [
    ["frame", "crop", "x0", "y0", "x1", "y1", "class_index", "class_name"],
    ["swan_00000", 0, 2, 0, 8, 6, 2, "bird"],
    ["swan_00000", 1, 1, 1, 5, 5, 2, "bird"],
    ["bear_00000", 0, 0, 0, 6, 6, 4, "bear"],
    ["swan_00001", 0, 3, 0, 9, 6, 2, "bird"],
    ["gone_00000", 0, 0, 0, 6, 6, 4, "bear"],
]


def test_one_example_for_each_crop(frames):
    table(frames / "crops.tsv", CROPS)
    whole = open_dataset(frames)
    data = open_dataset(frames, crops="crops.tsv")
    assert list(data.ids) == ["swan_00000#0", "swan_00000#1", "bear_00000#0", "swan_00001#0", "gone_00000#0"]
    assert list(data.classes) == ["class 0", "class 1", "bird", "class 3", "bear"]
    for index, base, (x0, y0, x1, y1), label in (
        (0, 1, (2, 0, 8, 6), 2),
        (1, 1, (1, 1, 5, 5), 2),
        (2, 0, (0, 0, 6, 6), 4),
    ):
        example, full = data.read(index), whole.read(base)
        assert np.array_equal(np.asarray(example.image), np.asarray(full.image)[y0:y1, x0:x1])
        assert np.array_equal(example.mask, full.mask[y0:y1, x0:x1])
        assert example.label == label
    with pytest.raises(InputError, match="does not lie in"):
        data.read(3)
    with pytest.raises(InputError, match="gone_00000"):
        data.read(4)
    assert len({data.content(i) for i in range(3)}) == 3


def test_crops_by_the_names_of_a_models_classes(frames):
    table(frames / "crops.tsv", CROPS)
    data = open_dataset(frames, crops=frames / "crops.tsv", classes=["bear", "cat", "bird"])
    assert [data.read(i).label for i in range(3)] == [2, 2, 0]
    with pytest.raises(InputError, match="bear"):
        open_dataset(frames, crops="crops.tsv", classes=["bird"])


def test_a_table_of_labels_for_pictures_with_masks(frames):
    rows = [["frame", "sequence", "class_index", "class_name"], ["swan_00001", "swan", 2, "bird"]]
    table(frames / "labels.tsv", [*rows, ["bear_00000", "bear", 0, "bear"]])
    data = open_dataset(frames, labels="labels.tsv")
    assert list(data.ids) == ["swan_00001", "bear_00000"] and list(data.classes) == ["bear", "class 1", "bird"]
    assert [data.read(i).label for i in range(2)] == [2, 0] and data.read(0).mask is not None
    table(frames / "wrong.tsv", [*rows, ["bear_00000", "bear", 2, "bear"]])
    with pytest.raises(InputError, match="disagree"):
        open_dataset(frames, labels="wrong.tsv")
    with pytest.raises(OptionError, match="one of them"):
        open_dataset(frames, labels="labels.tsv", crops="labels.tsv")
    with pytest.raises(OptionError, match="x0"):
        open_dataset(frames, crops="labels.tsv")


def test_masks_and_pictures_that_do_not_fit(frames):
    save(frames / "masks" / "swan_00000.png", square(6, 7))
    (frames / "images" / "swan_00001.png").unlink()
    data = open_dataset(frames)
    assert data.read(0).mask.shape == (6, 8)
    with pytest.raises(InputError, match="another size"):
        data.read(1)
    with pytest.raises(InputError, match="nothing there"):
        data.read(2)
    with pytest.raises(OptionError, match="name the folders"):
        open_dataset(frames, kind="masks", masks="nowhere")


def test_what_masks_mean_is_part_of_the_fingerprint(frames):
    assert fingerprint(open_dataset(frames)) != fingerprint(open_dataset(frames, ignore=255))


def test_random_draws_of_pictures_are_those_of_a_generator_of_their_own(frames):
    everything = open_dataset(frames).ids
    for state in (1, 2):
        random.seed(state)
        found = list(open_dataset(frames, sample=2, seed=5).ids)
        assert found == [everything[i] for i in random.Random(5).sample(range(3), 2)]
