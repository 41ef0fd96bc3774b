"""Help texts that are not Hydra's."""

from meft_runner.config import METHODS

MEMORY_HELP = f"""\
meft-memory: what a training step needs, predicted from shapes alone: no weights, no GPU, no network.

  meft-memory backbone=roberta method=[full,lora,meft1] checkpointing=[false,true] batch=32 length=128

  backbone=[roberta]   method=[{",".join(METHODS)}]
  checkpointing=[false]      without and with: of methods that have no reversal
  batch=[32]   length=[128]   precision=[fp32]   attention=[materialised]     lists; every combination is a row
  accumulating=true          a step that adds to the gradients of an earlier pass
  method.reversal=exact      layers of lora, dora, ia3 and vera that keep no activations
  method.chunks=4 ...        settings of meft-run's methods on which memory depends, for every row that has them
  backbone.repeat=2          a deeper model; backbone.config.NAME=SIZE another size of its config.json
  backbone.path=DIR          sizes from a folder's config.json
  format=table|json|csv|markdown      also of what fits
  sweep=length|depth|batch   rows over that for one backbone, and the curve as PNG and SVG in output_dir=memory
  timeline=true              the live bytes over one step, as PNG and SVG in output_dir=memory
  fit=24GiB                  the largest batch at this length, and the largest length at this batch
  measure=true               the same steps measured on this machine, a row below each prediction
"""
