import sys
from pathlib import Path

# A script finds the modules beside it, as it does where it is run.
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
