/** Our own kinds of output as DOM, built with `textContent` and nothing else. */
import { Clipboard } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { LabIcon } from '@jupyterlab/ui-components';
import { lockIcon } from '../ui/icons';
import { toCsv } from './csv';
import { REDACTED, repeatedLabels, type IFigure, type IHeld, type ITable } from './document';

const SECONDS_COPIED = 2;

interface IElementOptions {
  readonly className?: string;
  readonly text?: string;
}

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  { className, text }: IElementOptions = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  if (className) {
    made.className = className;
  }
  if (text !== undefined) {
    made.textContent = text;
  }
  made.append(...children);
  return made;
}

export function iconElement(icon: LabIcon, className: string): HTMLElement {
  const made = icon.element({ tag: 'span', className });
  made.setAttribute('aria-hidden', 'true');
  return made;
}

export function drawTable(table: ITable, trans: TranslationBundle): HTMLElement {
  const grid = element('table', { className: 'osl-Table-grid' });
  grid.append(element('caption', { className: 'osl-Table-caption', text: table.name }));
  const head = element('tr');
  table.columns.forEach((column, index) => {
    const heading = element('th', { text: column });
    heading.scope = 'col';
    heading.classList.toggle('osl-mod-label', index < table.labelColumns);
    head.append(heading);
  });
  const body = element('tbody');
  table.rows.forEach((_, index) => body.append(drawRow(table, index, trans)));
  grid.append(element('thead', {}, head), body);
  const scroller = element('div', { className: 'osl-Table-scroller' }, grid);
  scroller.tabIndex = 0; // a wide table can be scrolled from the keyboard
  scroller.setAttribute('role', 'group');
  scroller.setAttribute('aria-label', trans.__('Table: %1', table.name));
  const foot = element('div', { className: 'osl-Output-foot' });
  foot.append(element('p', { className: 'osl-Output-sentence', text: table.sentence }), copyButton(table, trans));
  const drawn = element('section', { className: 'osl-Table' }, scroller, foot);
  drawn.dataset['testid'] = 'osl-table';
  return drawn;
}

function drawRow(table: ITable, at: number, trans: TranslationBundle): HTMLTableRowElement {
  const drawn = element('tr');
  const repeated = repeatedLabels(table, at);
  drawn.classList.toggle('osl-mod-total', table.totalRows.includes(at));
  drawn.classList.toggle('osl-mod-group', repeated === 0);
  table.rows[at]?.forEach((text, index) => {
    if (index < table.labelColumns) {
      const label = element('th', { className: 'osl-mod-label', text });
      label.scope = 'row';
      label.classList.toggle('osl-mod-repeated', index < repeated);
      drawn.append(label);
    } else if (text === REDACTED) {
      const mark = element('span', { className: 'osl-Redacted', text });
      mark.setAttribute('role', 'img');
      mark.setAttribute('aria-label', trans.__('redacted'));
      mark.title = trans.__('Hidden, so that nobody can be told from it');
      drawn.append(element('td', {}, mark));
    } else {
      drawn.append(element('td', { text }));
    }
  });
  return drawn;
}

function copyButton(table: ITable, trans: TranslationBundle): HTMLElement {
  const button = element('button', { className: 'osl-Button osl-mod-small', text: trans.__('Copy as CSV') });
  button.type = 'button';
  button.dataset['testid'] = 'osl-copy-csv';
  const said = element('span', { className: 'osl-Said' });
  said.setAttribute('role', 'status');
  button.addEventListener('click', () => {
    Clipboard.copyToSystem(toCsv(table));
    said.textContent = trans.__('Copied');
    window.setTimeout(() => {
      said.textContent = '';
    }, SECONDS_COPIED * 1000);
  });
  return element('span', { className: 'osl-Copy' }, said, button);
}

/** `png` is base64 that `document.png` has looked at. */
export function drawFigure(figure: IFigure, png: string): HTMLElement {
  const picture = element('img', { className: 'osl-Figure-picture' });
  picture.alt = [figure.name, figure.sentence].filter(Boolean).join('. ');
  picture.src = `data:image/png;base64,${png}`;
  const caption = element('figcaption');
  caption.append(
    element('span', { className: 'osl-Table-caption', text: figure.name }),
    element('p', { className: 'osl-Output-sentence', text: figure.sentence })
  );
  const drawn = element('figure', { className: 'osl-Figure' }, picture, caption);
  drawn.dataset['testid'] = 'osl-figure';
  return drawn;
}

export function drawHeld(held: IHeld): HTMLElement {
  const text = element('div', {}, element('p', { className: 'osl-Held-sentence', text: held.sentence }));
  if (held.nextStep) {
    text.append(element('p', { className: 'osl-Held-next', text: held.nextStep }));
  }
  const drawn = element('div', { className: 'osl-Held' }, iconElement(lockIcon, 'osl-Held-icon'), text);
  drawn.dataset['testid'] = 'osl-held';
  return drawn;
}

export function drawUnreadable(trans: TranslationBundle): HTMLElement {
  return drawHeld({ sentence: trans.__('This output is not in a form that can be shown safely.'), nextStep: '' });
}
