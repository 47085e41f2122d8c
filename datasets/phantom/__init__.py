"""Synthetic chest X-rays with lesions, to try everything without real data."""

from datasets.phantom.like import plan_phantom_like
from datasets.phantom.plan import PhantomError, plan_phantom
from datasets.phantom.render import PhantomCase, render_case
from datasets.phantom.sheet import draw_example_sheet
from datasets.phantom.statistics import sample_lesions
from datasets.phantom.write import make_phantom, write_phantom

__all__ = [
    "PhantomCase",
    "PhantomError",
    "draw_example_sheet",
    "make_phantom",
    "plan_phantom",
    "plan_phantom_like",
    "render_case",
    "sample_lesions",
    "write_phantom",
]
