"""A picture of a section of a page, whole and in all its colours: docs/images/demo.png and explanation-page.png.

    dynamick demo --out runs/demo
    python -m benchmarks.results.screens runs/demo/report.html "What the heads weigh" --out docs/images/demo.png
    python -m benchmarks.results.screens runs/demo/explanations.html Decisions --until "#sums" \\
        --out docs/images/explanation-page.png

Needs Debian's chromium and chromium-driver.
"""

import argparse
import base64
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

from dynamick.files import write_atomically

MARGIN = 12
"""Pixels around the section."""


def screen(page: Path, heading: str, width: int, most: int, until: str | None) -> bytes:
    """PNG of the section with this heading, as wide as a window of `width` shows it, and at most `most` pixels high.

    `until` is the CSS selector of the last element that is shown; None shows the whole section.
    """
    options = webdriver.ChromeOptions()
    for each in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{most}"):
        options.add_argument(each)
    with webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver")) as browser:
        browser.get(page.absolute().as_uri())
        found = browser.find_element(By.XPATH, f"//h2[contains(., '{heading}')]/ancestor::section[1]")
        box = found.rect
        last = box if until is None else browser.find_element(By.CSS_SELECTOR, until).rect
        height = min(last["y"] + last["height"] - box["y"], most) + 2 * MARGIN
        clip = {
            "x": box["x"] - MARGIN,
            "y": box["y"] - MARGIN,
            "width": box["width"] + 2 * MARGIN,
            "height": height,
            "scale": 1,
        }
        taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    return base64.b64decode(taken["data"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("heading")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=1140, help="of the window, in pixels (default: %(default)s)")
    parser.add_argument("--most", type=int, default=4000, help="of the height, in pixels (default: %(default)s)")
    parser.add_argument("--until", metavar="SELECTOR", help="the last element that is shown, such as '#sums'")
    args = parser.parse_args()
    write_atomically(args.out, screen(args.page, args.heading, args.width, args.most, args.until))


if __name__ == "__main__":
    main()
