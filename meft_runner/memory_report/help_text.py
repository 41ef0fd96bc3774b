"""Help texts that are not Hydra's."""

from meft_runner.config import METHODS

MEMORY_HELP = f"""\
meft-memory: what a training step needs, predicted from shapes alone: no weights, no GPU, no network.

  meft-memory backbone=roberta method=[full,lora,meft1] checkpointing=[false,true] batch=32 length=128
  meft-memory backbone=llama3_8b weights=[bf16,nf4] batch=1 length=8192 precision=bf16 attention=flash

  backbone=[roberta]   method=[{",".join(METHODS)}]
  checkpointing=[false,true,offload,every_4]       of methods without reversal; unless set, of lora
  batch=[32]   length=[128]   precision=[fp32]   attention=[materialised]     lists; every combination is a row
  weights=[fp32]             fp32, bf16, fp16, nf4, int8: the frozen ones; what cannot be trained so is left out
  head=[lm,classification]   what the model is to do; a decoder is a language model unless set
  accumulating=true          a step that adds to the gradients of an earlier pass
  method.reversal=exact      layers of lora, dora, ia3 and vera that keep no activations
  method.offload=true        what reversible layers keep (reversal=exact) waits on the host: see the column host
  method.chunks=4 ...        settings of meft-run's methods on which memory depends, for every row that has them
  backbone.repeat=2          a deeper model; backbone.config.NAME=SIZE another size of its config.json
  backbone.path=DIR          sizes from a folder's config.json
  format=table|json|csv|markdown      also of what fits
  sweep=length|depth|batch   rows over that for one backbone, and the curve as PNG and SVG in output_dir=memory
  timeline=true              the live bytes over one step, as PNG and SVG in output_dir=memory
  fit=24GiB                  the largest batch at this length, and the largest length at this batch
  measure=true               the same steps measured on this machine, a row below each prediction
"""
