"""Tests of nilearn that Penstock does not pass, and why: patterns of their names, with reasons.

A reason is one of three. `PRIVATE`: the test looks at names that begin with an underscore, at
nilearn's own documentation, log lines, cache or HTML template. `WORDS`: it counts warnings by their
words. Anything else says what Penstock does instead; docs/from_nilearn.md tells users the same.
"""

from __future__ import annotations

import re

PRIVATE = "looks at nilearn's private names, pages, log lines or cache"
WORDS = "counts warnings by their words"

_TYPES = (
    "signals and images are floating numbers unless `dtype` names another type: region averages "
    "are not cut to whole numbers ('auto' is float32)"
)
_UNCHANGED = "a masker is not changed by transform (nilearn's labels masker is)"
_MISSING = "voxels that are not finite are missing; they are not replaced by 0 with a warning"
_NAMES = "names that do not fit to the labels are an error: nilearn pads or cuts with a warning"
_LISTS = "images of a list follow each other in time, whatever their dims"
_SINGLE = "a single volume gives (regions,), with one region, too; nilearn gives a scalar"
_SPHERES = "spheres are painted on the grid of the image of `fit`, nilearn's on that of the mask"
_EMPTY = "a mask without a voxel is an error when it is computed, not when it is used"
_NYQUIST = "a high-pass at or above the Nyquist frequency is an error"

DIFFERENCES: tuple[tuple[str, str], ...] = (
    # ------------------------------------------------------------------ nilearn's own matters
    (r"check_doc_attributes|check_doc_link|check_tags", PRIVATE),
    (r"check_img_estimator_verbose|check_masker_verbose|check_masker_mask_img\b", PRIVATE),
    (r"check_masker_shelving|check_multi_nifti_masker_shelving|check_masker_joblib_cache", PRIVATE),
    (r"check_(multi)?masker_generate_report|_generate_report_after_fit", PRIVATE),
    (r"test_mixin\.py::test_masker_reporting_(true|false)", PRIVATE),
    (r"_create_(summary_)?figure_for_report", PRIVATE),
    (r"test_html_report\.py::", PRIVATE),
    (r"test_base_masker\.py::test_get_masker_params", PRIVATE),
    (r"test_no_background", PRIVATE),
    (r"check_embedded_masker", "n_jobs is None by default (all cores), and images are not copied"),
    (r"check_masker_transform_resampling", PRIVATE),
    # ------------------------------------------------------------------ documented
    (r"check_img_estimator_dtypes_(inverse_)?transform", _TYPES),
    (r"check_img_estimator_dtype_bool", "truth values are signals of 0 and 1, without a warning"),
    (r"check_img_estimator_dict_unchanged", _UNCHANGED),
    (r"check_masker_fit_with_non_finite_in_mask|with_nans_and_infs", _MISSING),
    (r"check_nifti_masker_fit_transform_5d", _LISTS),
    (r"test_multi_nifti_maps_masker\.py::test_errors", _LISTS),
    (r"check_nifti_masker_fit_transform\b", _SINGLE),
    (r"test_nifti_spheres_masker\.py::.*check_masker_inverse_transform", _SPHERES),
    (r"test_warning_n_labels_not_equal_n_regions|test_more_labels_than_actual_region", _NAMES),
    (r"test_regions_id_names_with_too_few_labels|check_labels_errors", _NAMES),
    (r"test_regions_id_names_lut_too_few", "labels that a table lacks are named by their value"),
    (r"test_regions_id_names_no_labels_no_lut", "labels of a float image are named '1', not '1.0'"),
    (r"test_compute_mask_strategy|test_no_warning_partial_joblib", _EMPTY),
    (r"test_multi_nifti_masker\.py::test_(invalid_mask_arg|mask_strategy_errors)", _EMPTY),
    (r"test_resampling_target", "keep_masked_labels keeps labels that resampling loses, too"),
    (r"test_small_radius", "a sphere without a voxel is told at fit"),
    (r"test_sphere_extraction", "asks for the last bit of a mean"),
    (r"test_clean_t_r_highpass_float_int|test_clean_frequencies", _NYQUIST),
    (r"test_clean_confounds_inputs", "confounds that explain everything are an error"),
    (r"test_clean_errors", "ensure_finite=None is False"),
    (r"test_clean_psc_warning", WORDS),
    (r"test_clean_sample_mask_error", "one sample mask goes with several runs"),
)


def reason_for(test: str) -> str | None:
    """Why a test need not pass; None if it must."""
    for pattern, reason in DIFFERENCES:
        if re.search(pattern, test):
            return reason
    return None
