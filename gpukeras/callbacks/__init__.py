"""Callbacks: what may happen between the steps and epochs of a loop."""

from gpukeras.callbacks.base import Callback
from gpukeras.callbacks.callback_list import CallbackList
from gpukeras.callbacks.checkpoint import ModelCheckpoint
from gpukeras.callbacks.csv_log import CSVLogger
from gpukeras.callbacks.history import History
from gpukeras.callbacks.lambda_callback import LambdaCallback
from gpukeras.callbacks.logs import ProgbarLogger
from gpukeras.callbacks.schedule import LearningRateScheduler, ReduceLROnPlateau
from gpukeras.callbacks.stopping import EarlyStopping, TerminateOnNaN

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackList",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "ModelCheckpoint",
    "ProgbarLogger",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]
