"""Fine-tuning: recipes, the parts of the data, models to be trained, and what is written at the end."""

from .finetune import Finetuned
from .recipes import TASKS, Recipe
