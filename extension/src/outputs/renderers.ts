import type { IMarkdownParser } from '@jupyterlab/rendermime';
import {
  htmlRendererFactory,
  imageRendererFactory,
  markdownRendererFactory,
  RenderMimeRegistry,
  textRendererFactory
} from '@jupyterlab/rendermime';
import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import type { ITranslator, TranslationBundle } from '@jupyterlab/translation';
import { Widget } from '@lumino/widgets';
import { labIcon } from '../ui/icons';
import { drawFigure, drawHeld, drawTable, drawUnreadable, element, iconElement } from './draw';
import { FIGURE, figure, HELD, held, JOB, jobLink, PNG, png, TABLE, table, type IJobLink } from './document';
import { StrictSanitizer } from './sanitizer';

/** Draws one model of ours; throws if it is not what its mime type says. */
type Draw = (model: IRenderMime.IMimeModel) => HTMLElement;

class DrawnOutput extends Widget implements IRenderMime.IRenderer {
  constructor(
    private readonly _draw: Draw,
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.addClass('osl-Output');
  }

  renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    let drawn: HTMLElement;
    try {
      drawn = this._draw(model);
    } catch {
      drawn = drawUnreadable(this._trans);
    }
    this.node.replaceChildren(drawn);
    return Promise.resolve();
  }
}

function factory(mimeType: string, draw: Draw, trans: TranslationBundle): IRenderMime.IRendererFactory {
  return {
    safe: true,
    mimeTypes: [mimeType],
    defaultRank: 0,
    createRenderer: () => new DrawnOutput(draw, trans)
  };
}

/** Renderers for what the gate made. */
function gateFactories(trans: TranslationBundle): IRenderMime.IRendererFactory[] {
  return [
    factory(TABLE, model => drawTable(table(model.data[TABLE], TABLE), trans), trans),
    factory(FIGURE, model => drawFigure(figure(model.data[FIGURE], FIGURE), png(model.data[PNG], PNG)), trans),
    factory(HELD, model => drawHeld(held(model.data[HELD], HELD)), trans)
  ];
}

/** The lasting mark that `%opensafely` leaves in a notebook: a line and a button. No number in it. */
export function jobLinkFactory(trans: TranslationBundle, open: (id: string) => void): IRenderMime.IRendererFactory {
  return factory(JOB, model => drawJobLink(jobLink(model.data[JOB], JOB), trans, open), trans);
}

function drawJobLink(link: IJobLink, trans: TranslationBundle, open: (id: string) => void): HTMLElement {
  const button = element('button', { className: 'osl-Button osl-mod-small', text: trans.__('Show in the panel') });
  button.type = 'button';
  button.dataset['testid'] = 'osl-job-link';
  button.addEventListener('click', () => open(link.id));
  return element(
    'div',
    { className: 'osl-JobLink' },
    iconElement(labIcon, 'osl-JobLink-icon'),
    element('span', { className: 'osl-JobLink-text', text: [link.action, link.sentence].filter(Boolean).join(': ') }),
    button
  );
}

/**
 * A registry of its own, with only what cannot run: no script, no widget, no SVG, no LaTeX, nothing that
 * another extension has registered.
 */
export function resultRegistry(
  translator: ITranslator,
  trans: TranslationBundle,
  parser: IMarkdownParser | null
): RenderMimeRegistry {
  return new RenderMimeRegistry({
    initialFactories: [
      ...gateFactories(trans),
      htmlRendererFactory,
      markdownRendererFactory,
      { ...imageRendererFactory, mimeTypes: [PNG, 'image/jpeg'] },
      { ...textRendererFactory, mimeTypes: ['text/plain'] }
    ],
    sanitizer: new StrictSanitizer(),
    markdownParser: parser === null ? undefined : withoutDiagrams(parser),
    translator
  });
}

/** Diagrams are drawn by a large library in the page itself: here they stay text. */
function withoutDiagrams(parser: IMarkdownParser): IMarkdownParser {
  return { render: source => parser.render(source.replace(/^([ \t>*+-]*(?:`{3,}|~{3,})[ \t]*)mermaid\b/gim, '$1text')) };
}
