"""How well text can be told from what is behind it, in a real page (WCAG 2.2, 1.4.3: 4.5 to 1)."""

from __future__ import annotations

from playwright.sync_api import Locator

ENOUGH = 4.5
# Over all the text below an element: the lowest contrast, and where it is. Layers of colour are laid over each other.
_LOWEST = """root => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const colour = (...layers) => {
    canvas.fillStyle = 'white'; canvas.fillRect(0, 0, 1, 1);
    for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
    return layers;
  };
  const found = [];
  for (const element of root.querySelectorAll('*')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !element.checkVisibility()) continue;
    const back = behind(element);
    const [a, b] = [light(colour(...back, getComputedStyle(element).color)), light(colour(...back))]
      .sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), element.outerHTML.slice(0, 120)]);
  }
  return found.sort((x, y) => x[0] - y[0])[0];
}"""


def lowest_contrast(root: Locator) -> tuple[float, str]:
    contrast, where = root.evaluate(_LOWEST)
    return float(contrast), str(where)
