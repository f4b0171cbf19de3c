"""Loss on general images, whose embeddings and feature maps the student keeps."""

import torch
from torch import Tensor
from tqdm.auto import tqdm

from training.config import AlignRecipe
from training.general_images import photo_crops, vary_images
from training.tasks.losses import LossInputs, embedding_loss, map_distances
from training.tasks.task import Models, OwnInputs, Task
from training.teachers.targets import LiveTargets, TargetSource

IMAGES_AT_ONCE = 32  # images that the teacher encodes at once
NUM_IMAGES = 32  # images that each step encodes


class GeneralPhotos(OwnInputs):
    """Cosine distance to the teacher's embeddings of general images, and the distance to its feature maps of them.

    Args:
        images: (N, 3, S, S) uint8.
        targets: The teacher's embeddings of them, (N, D) float32.
        maps: The teacher's feature maps of them, (N, C, H, W) float16, for a student that started as a copy of its
            teacher; None for others.
    """

    def __init__(self, images: Tensor, targets: Tensor, maps: Tensor | None = None):
        super().__init__(images=images, targets=targets, maps=maps)
        self.has_maps = maps is not None

    @classmethod
    @torch.inference_mode()
    def prepare(
        cls, recipe: AlignRecipe, models: Models, targets: TargetSource, device: torch.device
    ) -> "GeneralPhotos":
        """Encode varied crops of a few photographs with the teacher."""
        images = vary_images(photo_crops(models.student.config.image_size))
        embeddings = []
        maps = []
        for part in tqdm(images.split(IMAGES_AT_ONCE), "general images", unit="batch", leave=False):
            pixels = part.to(device).float()
            if recipe.starts_from_teacher and isinstance(targets, LiveTargets):
                found = targets.teacher.image_targets(targets.normalize(pixels))
                maps.append(found.required_map.half())
            else:
                found = targets.images(pixels, {})
            embeddings.append(found.embedding.float())
        return cls(images, torch.cat(embeddings), torch.cat(maps) if maps else None)

    def encode(self, task: Task, teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """Embeddings of student and teacher of drawn images, `photo` and `teacher_photo` (n, D), and `photo_map` (n,),
        the distance of each feature map.
        """
        images = self.get_buffer("images")
        targets = self.get_buffer("targets")
        drawn = task.on_device(task.draw(len(images), NUM_IMAGES))
        student = task.student.get_image_features(task.normalize(images[drawn]))
        outputs = {
            "photo": student.pooler_output.float(),
            "teacher_photo": task.to_student_space(targets[drawn]),
        }
        if self.has_maps:
            maps = self.get_buffer("maps")[drawn]
            outputs["photo_map"] = map_distances(student.feature_map, maps)
        return outputs

    def forward(self, inputs: LossInputs) -> dict[str, Tensor]:
        """The mean distances of embeddings and, if there are any, of maps."""
        parts = {"embedding": embedding_loss(inputs.cut("photo"), inputs.cut("teacher_photo"))}
        if self.has_maps:
            parts["map"] = inputs.extra["photo_map"].mean()
        return parts
