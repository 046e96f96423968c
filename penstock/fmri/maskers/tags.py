"""What maskers tell scikit-learn about themselves: they take images, in nilearn's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sklearn.utils import InputTags


@dataclass
class ImageInputTags(InputTags):
    """Tags of an estimator that takes images, with those that nilearn adds."""

    niimg_like: bool = True
    """Takes NIfTI images, in memory or as paths."""
    surf_img: bool = False
    """Takes images of surfaces."""


def masker_tags(tags: Any) -> Any:
    """The tags of an estimator, changed to those of a masker."""
    tags.input_tags = ImageInputTags()
    tags.estimator_type = "masker"
    return tags
