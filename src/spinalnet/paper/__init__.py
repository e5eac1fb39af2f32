"""The paper's experiments: recipes, the two protocols, their records, the original's weights."""

from spinalnet.paper.protocol import run_recipe
from spinalnet.paper.recipes import RECIPES, find_recipes, list_recipes
from spinalnet.paper.weights import convert_checkpoint, load_original_state_dict
