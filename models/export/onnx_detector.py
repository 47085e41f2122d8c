"""An exported ONNX file as a detector, run by onnxruntime. The only file that imports onnxruntime."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models.export.portable import FACTS_KEY, ExportFacts
from models.export.seal import is_sealed
from models.inference import MERGE_IOU, Detector, View
from models.outputs import Prediction
from util.base.errors import MissingPackage, UserError
from util.detection.batch import Batch
from util.detection.fusion import ImageDetections, Method, build_merge


class OnnxSession:
    """A file of scripts/export.py, loaded on the CPU with as many threads as PyTorch has.

    Args:
        path: the file.

    Raises:
        MissingPackage: onnxruntime, which is optional, is not installed.
        UserError: it is not there, is not an ONNX file, lacks its metadata, or was changed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingPackage(
                f"{path}: needs the package {error.name}: pip install -r requirements-extra.txt"
            ) from error
        if not path.is_file():
            raise UserError(f"{path}: no such file; make it with scripts/export.py --format onnx")
        errors = onnxruntime.capi.onnxruntime_pybind11_state
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except (
            errors.InvalidProtobuf,
            errors.InvalidGraph,
            errors.NotImplemented,
            errors.Fail,
            errors.InvalidArgument,
        ) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({reason}); make it again with "
                "scripts/export.py --format onnx"
            ) from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.facts = ExportFacts.from_json(metadata.get(FACTS_KEY), str(path))
        if not is_sealed(path, self.facts.seal):
            raise UserError(
                f"{path}: is not as scripts/export.py left it (its checksum differs), so nobody has checked it; make "
                "it again with scripts/export.py --format onnx"
            )
        self.path = path

    def run(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W] float32 and the (h, w) of their files [B, 2] -> outputs by `portable.OUTPUTS`."""
        arrays = {"images": images.numpy(), "sizes": sizes.numpy()}
        inputs = {i.name: arrays[i.name] for i in self._session.get_inputs()}
        return tuple(torch.from_numpy(output) for output in self._session.run(None, inputs))


class OnnxNetwork:
    """The file as a `models.inference.detector.Network`."""

    def __init__(self, session: OnnxSession) -> None:
        self.session = session
        self.postprocess = session.facts.postprocess()

    def __call__(self, batch: Batch) -> list[ImageDetections]:
        """Detections per image by descending score: `scores`, `labels`, `boxes` xyxy in pixels of the file.

        Padding is cut off, and images of one size go through the network together.

        Raises:
            UserError: an image is not of the one size that the file takes.
        """
        batch = batch.to(torch.device("cpu"))  # normalises
        sides = [(int((~m[:, 0]).sum()), int((~m[0]).sum())) for m in batch.mask]
        detections: dict[int, ImageDetections] = {}
        for height, width in dict.fromkeys(sides):
            self._check_size(height, width)
            indices = [i for i, side in enumerate(sides) if side == (height, width)]
            images = batch.images[indices, :, :height, :width].contiguous()
            sizes = torch.stack([batch.targets[i]["orig_size"] for i in indices])
            detections |= dict(zip(indices, self._detect(images, sizes), strict=True))
        return [detections[i] for i in range(len(sides))]

    def _detect(self, images: Tensor, sizes: Tensor) -> list[ImageDetections]:
        outputs = self.session.run(images, sizes)
        if self.session.facts.post_processing == "inside":
            best = outputs[:3]
        else:
            best = self.postprocess.select_top(Prediction(*outputs[:2]), sizes)
        return [self.postprocess.apply_nms(*image) for image in zip(*best, strict=True)]

    def _check_size(self, height: int, width: int) -> None:
        facts = self.session.facts
        if facts.height is not None and (height, width) != (facts.height, facts.width):
            raise UserError(
                f"{self.session.path}: takes only images of {facts.width} x {facts.height} pixels (width x height), "
                f"this one is resized to {width} x {height}; export for any size: scripts/export.py --size dynamic"
            )


def load_onnx_detector(
    path: str | Path, *, flip: bool = False, merge: Method = "wbf", merge_iou: float = MERGE_IOU
) -> Detector:
    """Load a detector from an ONNX file of scripts/export.py, which holds weights, names and settings.

    Args:
        path: the file.
        flip: test-time augmentation by the mirrored image.
        merge: how the detections of the two views are fused: `util.detection.fusion`.
        merge_iou: IoU above which the fusion takes two boxes of a class for the same.

    Raises:
        UserError: as `OnnxSession`.
    """
    session = OnnxSession(Path(path))
    facts = session.facts
    network = OnnxNetwork(session)
    views = [View(network, facts.scale, facts.max_size, is_flipped) for is_flipped in ((False, True)[: 1 + flip])]
    return Detector(
        views, build_merge(merge, merge_iou, facts.num_select), names=facts.names, threshold=facts.threshold
    )
