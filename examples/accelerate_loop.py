"""Trains a ViT by MEFT3 with accelerate: bf16, gradient accumulation, and several GPUs where they are launched.

python examples/accelerate_loop.py                                           # a small random ViT
accelerate launch examples/accelerate_loop.py --model google/vit-base-patch16-224-in21k
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from meft_runner import make_reversible, reversal_report


def make_rows(count: int, size: int) -> TensorDataset:
    """Returns noisy images of stripes, of the class 0 where they are upright and 1 where they lie."""
    labels = torch.randint(0, 2, (count,))
    stripes = ((torch.arange(size) // 4) % 2).float().expand(count, 3, size, size)
    images = torch.where(labels[:, None, None, None] == 1, stripes.transpose(2, 3), stripes)
    return TensorDataset(images + 0.5 * torch.randn(count, 3, size, size), labels)


def main() -> None:
    """Trains, and says what the reversal found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="a folder, or a name on the hub")
    parser.add_argument("--steps", type=int, default=30)
    asked = parser.parse_args()
    set_seed(1)

    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    if asked.model:
        model = AutoModelForImageClassification.from_pretrained(asked.model, num_labels=2)
    else:
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
        model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=2, **sizes))
    make_reversible(model, method="meft3", adapter_dim=16, scale_1="1/64", scale_2="1/64", mu="1-scale")

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    rows = make_rows(2 * 16 * asked.steps, model.config.image_size)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(rows, batch_size=16, shuffle=True))

    model.train()
    for number, (images, labels) in enumerate(loader, start=1):
        with accelerator.accumulate(model):
            loss = model(pixel_values=images, labels=labels).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if number % 20 == 0:
            accelerator.print(f"pass {number}, loss {loss.item():.4f}")
    accelerator.print(reversal_report(accelerator.unwrap_model(model)))


if __name__ == "__main__":
    main()
