"""How is a network trained by a recipe?"""

from veridical.training.accuracy import LEVEL, Accuracy, accuracy
from veridical.training.adversarial import Adversary, adversarial_images
from veridical.training.checkpoints import EpochRecord
from veridical.training.classifier import (
    DivergedError,
    FromScratch,
    Training,
    TrainingMoment,
    TrainingProgress,
    train_classifier,
)
from veridical.training.networks import (
    Bordt2023LeNet,
    Sixt2020Cifar10,
    bordt2023_lenet,
    sixt2020_cifar10,
)
from veridical.training.recipes import TRAINING_RECIPES, TrainingRecipe, training_recipe
from veridical.training.robustness import RobustAccuracy, RobustnessSettings, robust_accuracy
from veridical.training.robustness_art import check_strong_attack
from veridical.training.settings import TrainingSettings
from veridical.training.snapshots import Snapshots, log_steps

__all__ = [
    "LEVEL",
    "TRAINING_RECIPES",
    "Accuracy",
    "Adversary",
    "Bordt2023LeNet",
    "DivergedError",
    "EpochRecord",
    "FromScratch",
    "RobustAccuracy",
    "RobustnessSettings",
    "Sixt2020Cifar10",
    "Snapshots",
    "Training",
    "TrainingMoment",
    "TrainingProgress",
    "TrainingRecipe",
    "TrainingSettings",
    "accuracy",
    "adversarial_images",
    "bordt2023_lenet",
    "check_strong_attack",
    "log_steps",
    "robust_accuracy",
    "sixt2020_cifar10",
    "train_classifier",
    "training_recipe",
]
