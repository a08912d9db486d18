"""The name that scripts know `model.prepared.loader` by."""

from model.prepared.loader import Prepared as Prepared
