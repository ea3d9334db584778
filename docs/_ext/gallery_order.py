"""The order of the gallery's pages: a course, not an alphabet."""

COURSE = [
    "plot_quickstart.py",
    "plot_grid_search.py",
    "plot_gzsl_calibration.py",
    "plot_look_inside.py",
    "plot_attention_over_regions.py",
    "plot_unseen_digits.py",
    "plot_unseen_pictures.py",
    "plot_custom_backbone.py",
    "plot_class_tomorrow.py",
    "plot_names_as_text.py",
    "plot_remse_in_torch.py",
    "plot_parallel_search.py",
]


class CourseOrder:
    """Sort key of sphinx-gallery; what is not in the course comes last, by name."""

    def __init__(self, folder):
        pass

    def __call__(self, filename):
        place = COURSE.index(filename) if filename in COURSE else len(COURSE)
        return place, filename

    def __repr__(self):  # part of what decides whether a rebuild is needed
        return "CourseOrder()"
