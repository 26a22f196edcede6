"""How is a network trained by a recipe?"""

from veridical.training.accuracy import LEVEL, Accuracy, accuracy
from veridical.training.checkpoints import EpochRecord
from veridical.training.classifier import (
    DivergedError,
    FromScratch,
    Training,
    TrainingMoment,
    train_classifier,
)
from veridical.training.networks import Sixt2020Cifar10, sixt2020_cifar10
from veridical.training.recipes import TRAINING_RECIPES, TrainingRecipe, training_recipe
from veridical.training.settings import TrainingSettings

__all__ = [
    "LEVEL",
    "TRAINING_RECIPES",
    "Accuracy",
    "DivergedError",
    "EpochRecord",
    "FromScratch",
    "Sixt2020Cifar10",
    "Training",
    "TrainingMoment",
    "TrainingRecipe",
    "TrainingSettings",
    "accuracy",
    "sixt2020_cifar10",
    "train_classifier",
    "training_recipe",
]
