"""What does each strategy bring on my data? Features are computed once and shared through the cache.

python examples/compare_strategies.py DATA OUT [key=value ...]
"""

import sys
from pathlib import Path

import finetune


def main(data: str, out: str, *keys: str) -> None:
    print(f"{'strategy':<12}{'accuracy':>9}{'interval':>18}{'trained':>12}{'seconds':>9}")
    for strategy in ("linear", "multistage", "partial"):
        recipe = {"strategy": strategy, "data": {"path": data}, "out": str(Path(out) / strategy)}
        result = finetune.run(recipe, *keys, figures=False).result
        test = result["test"]
        interval = "{:.1%} to {:.1%}".format(*test["interval"])
        print(
            f"{strategy:<12}{test['accuracy']:>9.1%}{interval:>18}"
            f"{result['trained_parameters']:>12,}{result['seconds']:>9.1f}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
