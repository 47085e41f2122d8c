"""Plan a phantom that follows real annotations: real boxes, real file names, drawn pixels."""

import hashlib
import json
from itertools import chain, zip_longest
from pathlib import Path

from datasets.annotations.records import LabelledBox
from datasets.phantom.plan import PhantomError, PhantomPlan, PlannedImage, check_seed, hidden_case, voc_text
from datasets.phantom.render import PhantomCase
from datasets.phantom.statistics import LATENT, Lesion

PHANTOM_SPLITS = ("train", "val", "test")
LIST_NAMES = ("all_train", "all_val", "all_trainval", "all_test", "TBX11K_train", "TBX11K_val", "TBX11K_trainval")
DOCUMENT_NAMES = LIST_NAMES + tuple(f"{name}_only_tb" for name in LIST_NAMES if "test" not in name)
SMALLEST_LIMIT = 3
XML_SIDE = 4096  # width and height noted in an xml file that is not copied


def plan_phantom_like(like: Path, seed: int, limit: int | None = None) -> PhantomPlan:
    """Plan the data set of the annotations below `like`; images that exist there are copied.

    With `limit`, no list keeps more than that many images: up to a third are real ones that exist, half of the
    rest TB, a quarter each sick and healthy. A third of the images that trainval keeps belong to val. The lists
    stay consistent with each other, and ids are renumbered from 1; without it, documents stay as they are.
    """
    check_seed(seed)
    if limit is not None and limit < SMALLEST_LIMIT:
        raise PhantomError(f"limit must be at least {SMALLEST_LIMIT}, got {limit}")
    documents, digest = _read_documents(like)
    sizes, boxes = _join_by_name(documents)
    real = {name: like / "imgs" / name for name in sizes if (like / "imgs" / name).is_file()}
    keep = set(sizes) if limit is None else _choose_names(documents, boxes, real, limit)
    digest.update("\n".join(sorted(real)).encode())
    plan = PhantomPlan(recipe={"like": digest.hexdigest(), "limit": limit, "seed": seed})
    plan.documents = {n: d if limit is None else _restrict(d, keep) for n, d in documents.items()}
    plan.lists = _lists(like, plan.documents, keep)
    for name, (width, height) in sizes.items():
        if name not in keep:
            continue
        found = boxes.get(name, [])
        lesions = tuple(Lesion(c, (x / width, y / height, w / width, h / height)) for c, (x, y, w, h) in found)
        folder = name.split("/")[0]
        if lesions or folder in ("sick", "health"):
            case = PhantomCase(name, seed, "tb" if lesions else folder, lesions)
        else:
            case = hidden_case(name, seed)
        plan.images.append(PlannedImage(case, width, height, real.get(name)))
        if lesions:
            xml = like / "annotations/xml" / f"{Path(name).stem}.xml"
            plan.xml[Path(name).stem] = xml if xml.is_file() else _xml(name, found, width, height)
    return plan


def _read_documents(like):
    """The known json files below `like`, and a digest of their bytes."""
    folder = like / "annotations" / "json"
    paths = [folder / f"{name}.json" for name in DOCUMENT_NAMES if (folder / f"{name}.json").is_file()]
    if not paths:
        raise PhantomError(
            f"{folder} holds none of the lists of TBX11K, such as TBX11K_train.json; give its root folder"
        )
    documents = {}
    digest = hashlib.sha256()
    for path in paths:
        content = path.read_bytes()
        digest.update(content)
        try:
            documents[path.stem] = json.loads(content)
        except json.JSONDecodeError as error:
            raise PhantomError(f"{path} is not JSON ({error}); download the file again") from error
        missing = {"images", "annotations"} - set(documents[path.stem])
        if missing:
            raise PhantomError(f"{path} has no {' and no '.join(sorted(missing))}; it is not a COCO file")
    return documents, digest


def _join_by_name(documents):
    """Size and boxes of every image, over all documents. Ids restart in each, so file names join."""
    sizes: dict[str, tuple[int, int]] = {}
    boxes: dict[str, list[LabelledBox]] = {}
    for name, document in documents.items():
        file_names = {image["id"]: image["file_name"] for image in document["images"]}
        for image in document["images"]:
            sizes.setdefault(image["file_name"], (image["width"], image["height"]))
        of_document: dict[str, list[LabelledBox]] = {}
        for annotation in document["annotations"]:
            of_document.setdefault(file_names[annotation["image_id"]], []).append(
                (annotation["category_id"], annotation["bbox"])
            )
        for file_name, found in of_document.items():
            if boxes.setdefault(file_name, found) != found:
                raise PhantomError(f"{name}.json: the boxes of {file_name} differ from those in another list")
    return sizes, boxes


def _choose_names(documents, boxes, real, limit):
    pools = {split: _pool(documents, split) for split in PHANTOM_SPLITS}
    in_val = limit // 3 if pools["train"] else limit
    quota = {"train": limit - in_val if pools["val"] else limit, "val": in_val, "test": limit}
    return {name for split in PHANTOM_SPLITS for name in _mixture(pools[split], boxes, real, quota[split])}


def _pool(documents, split):
    """All images of a split in the order of the lists; an image known only to trainval counts as train."""
    of_split = [d for n, d in documents.items() if n.removesuffix("_only_tb").endswith(f"_{split}")]
    names = dict.fromkeys(image["file_name"] for d in of_split for image in d["images"])
    if split == "train":
        val = set(_pool(documents, "val"))
        both = (d for n, d in documents.items() if "_trainval" in n)
        names.update(dict.fromkeys(i["file_name"] for d in both for i in d["images"] if i["file_name"] not in val))
    return list(names)


def _mixture(pool, boxes, real, count):
    """Real images first, at most a third; then TB, sick and healthy 2:1:1; then whatever is left."""
    chosen = dict.fromkeys([name for name in pool if name in real][: count // 3])
    rest = [name for name in pool if name not in real]
    latent = [n for n in rest if any(c == LATENT for c, _ in boxes.get(n, []))]
    active = [n for n in rest if n in boxes and n not in set(latent)]
    tb = _interleave(active[0::2], active[1::2], latent)
    sick, health = ([n for n in rest if n.startswith(folder)] for folder in ("sick/", "health/"))
    for name in chain(_interleave(tb[0::2], sick, health, tb[1::2]), rest, pool):
        if len(chosen) >= count:
            break
        chosen.setdefault(name)
    return list(chosen)


def _interleave(*lists):
    return [item for group in zip_longest(*lists) for item in group if item is not None]


def _restrict(document, keep):
    """The document with the kept images only, ids from 1."""
    images = [image for image in document["images"] if image["file_name"] in keep]
    new_id = {image["id"]: i for i, image in enumerate(images, start=1)}
    kept = [a for a in document["annotations"] if a["image_id"] in new_id]
    annotations = [{**a, "id": i, "image_id": new_id[a["image_id"]]} for i, a in enumerate(kept, start=1)]
    images = [{**image, "id": new_id[image["id"]]} for image in images]
    return {**document, "images": images, "annotations": annotations}


def _lists(like, documents, keep):
    """The text lists below `like`, restricted to the kept images; those that do not exist come from the documents."""
    lists = {n: [i["file_name"] for i in d["images"]] for n, d in documents.items() if n in LIST_NAMES}
    for path in sorted((like / "lists").glob("*.txt")):
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        lists[path.stem] = [line for line in lines if line.removeprefix("imgs/") in keep]
    return lists


def _xml(name, boxes, width, height):
    across = XML_SIDE / width
    down = XML_SIDE / height
    corners = [
        (c, round((x + 1) * across), round((y + 1) * down), round((x + 1 + w) * across), round((y + 1 + h) * down))
        for c, (x, y, w, h) in boxes
    ]
    return voc_text(Path(name).stem, (XML_SIDE, XML_SIDE), corners)
