"""Models: layers that can be trained, evaluated, asked and saved."""

from gpukeras.models.functional import Functional
from gpukeras.models.model import Model
from gpukeras.models.sequential import Sequential
from gpukeras.saving import load_model, model_from_json, save_model

__all__ = ["Functional", "Model", "Sequential", "load_model", "model_from_json", "save_model"]
