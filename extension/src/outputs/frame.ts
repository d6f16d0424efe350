/**
 * A frame in which nothing can run or load, for a JupyterLab whose page has no such policy.
 *
 * Without allow-scripts no script of the frame's document runs; allow-same-origin lets this page put the
 * drawn result into it. The frame's own policy closes pictures, styles and connections to other hosts.
 */

const POLICY =
  "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-src 'none'";

export function makeFrame(
  host: HTMLElement,
  title: string
): Promise<{ readonly frame: HTMLIFrameElement; readonly body: HTMLElement }> {
  const frame = document.createElement('iframe');
  frame.className = 'osl-Frame';
  frame.title = title;
  frame.setAttribute('sandbox', 'allow-same-origin allow-popups');
  frame.setAttribute('referrerpolicy', 'no-referrer');
  frame.srcdoc =
    '<!doctype html><html><head><meta charset="utf-8">' +
    `<meta http-equiv="Content-Security-Policy" content="${POLICY}"><style></style></head><body></body></html>`;
  return new Promise((resolve, reject) => {
    frame.addEventListener('load', () => {
      const inside = frame.contentDocument;
      const style = inside?.querySelector('style');
      if (!inside || !style) {
        reject(new Error('The frame cannot be reached.'));
        return;
      }
      style.textContent = frameStyle();
      inside.body.className = 'osl-Result osl-mod-framed';
      resolve({ frame, body: inside.body });
    }, { once: true });
    host.replaceChildren(frame);
  });
}

/** The theme's variables and our own rules, as text: the frame sees no style sheet of the page. */
export function frameStyle(): string {
  const rules: string[] = [];
  for (const sheet of Array.from(document.styleSheets)) {
    let found: CSSRuleList;
    try {
      found = sheet.cssRules;
    } catch {
      continue; // a sheet of another origin
    }
    for (const rule of Array.from(found)) {
      if (rule instanceof CSSStyleRule && isOurs(rule)) {
        rules.push(rule.cssText);
      }
    }
  }
  const light = document.body.dataset['jpThemeLight'];
  return rules.join('\n').replaceAll(`[data-jp-theme-light="${light}"]`, ':root');
}

function isOurs(rule: CSSStyleRule): boolean {
  return /:root|\[data-jp-theme-light|\.osl-|\.jp-RenderedHTMLCommon|\.jp-RenderedText|\.jp-RenderedMarkdown|\.jp-RenderedImage/.test(
    rule.selectorText
  );
}
