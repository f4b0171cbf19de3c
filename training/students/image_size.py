"""Another image size for a finished student."""

import torch

from modeling_dcclip import DCCLIPModel, DCCLIPProcessor
from modeling_dcclip.image_dcclip import squashes
from training.teachers.preparation import square_image_processor


@torch.no_grad()
def set_image_size(student: DCCLIPModel, processor: DCCLIPProcessor, image_size: int) -> DCCLIPProcessor:
    """Give a student another image size; its weights stay the same.

    Args:
        student: Student on the CPU, whose config is changed.
        processor: Its processor.
        image_size: Height and width of the input image in pixels.

    Returns:
        Processor for images of this size, with the same mean, standard deviation and kind of resizing.

    Raises:
        ValueError: The image tower takes images of one size only, as a ViT does.

    Source: Touvron et al., arXiv 1906.06423, fine-tune a convolutional tower for larger images at the end of training.
    """
    old, was_training = processor.image_processor, student.training
    try:
        features = student.eval().get_image_features(torch.zeros(1, 3, image_size, image_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"image_size: {image_size} pixels do not fit the image tower ({type(error).__name__}: {error}). Leave "
            f"image_size out for {student.config.image_size} pixels, or choose a convolutional tower."
        ) from error
    finally:
        student.train(was_training)
    student.config.image_size = image_size
    student.config.vision_grid = list(features.feature_map.shape[2:])
    image_processor = square_image_processor(
        image_size, old.image_mean, old.image_std, squashes(old), resample=old.resample
    )
    return DCCLIPProcessor(image_processor, processor.tokenizer)
