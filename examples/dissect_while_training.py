"""How units become concepts: a dense and a Dynamic-5 network, dissected after every epoch of their training (Fig. 5c).

python examples/dissect_while_training.py --out runs/while-training     about 5 minutes on two CPU cores
"""

import argparse
from pathlib import Path

from dynamick.data import Broden, ComposedScenes
from dynamick.dissection import plots
from dynamick.training import DataRecipe, DissectEvery, OptimRecipe, Recipe, train


def main() -> None:
    """Train both networks and draw one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/while-training"))
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--images", type=int, default=10_000, help="training scenes; a tenth as many are dissected")
    args = parser.parse_args()
    data = DataRecipe(kind="scenes", train_images=args.images, val_images=args.images // 10)
    optim = OptimRecipe(
        epochs=args.epochs, batch_size=64, nesterov=True, weight_decay=5e-4, head_weight_decay=2e-2, schedule="onecycle"
    )
    # Scenes that neither network was trained on.
    ComposedScenes("val", size=args.images // 10).write_broden(args.out / "concepts")
    concepts = Broden(args.out / "concepts")
    histories = {}
    for title, model in {"Dense": "res8", "Dynamic-5": "res8-d5a"}.items():
        dissecting = DissectEvery(concepts, "layer3")
        recipe = Recipe(model=model, stem="patch", width=16, data=data, optim=optim)
        train(recipe, args.out / model, callbacks=[dissecting])
        histories[title] = dissecting.history
        print(title, *(f"{score:.4f}" for _, score in dissecting.history))
    plots.score_over_training(histories).savefig(args.out / "score-over-training.png", dpi=150)


if __name__ == "__main__":
    main()
