"""What Keras programs expect under ``keras.utils``."""

from gpukeras.utils.labels import normalize, to_categorical
from gpukeras.utils.seeds import clear_session, set_random_seed

__all__ = ["clear_session", "normalize", "set_random_seed", "to_categorical"]
