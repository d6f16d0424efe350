import type { IThemeManager } from '@jupyterlab/apputils';
import { ABCWidgetFactory, DocumentWidget, type DocumentRegistry } from '@jupyterlab/docregistry';
import type { RenderMimeRegistry } from '@jupyterlab/rendermime';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { JSONObject, JSONValue } from '@lumino/coreutils';
import { Widget } from '@lumino/widgets';
import { labIcon } from '../ui/icons';
import { levelLook, valueText } from '../ui/words';
import { element, iconElement } from './draw';
import { BANNER_CELLS, json, multiline, readDocument, type Bundle, type ICell, type IResultDocument } from './document';
import { frameStyle, makeFrame } from './frame';
import { highlightPython } from './highlight';

/** What the viewer is given by its plugin. */
export interface IViewing {
  readonly rendermime: RenderMimeRegistry;
  readonly trans: TranslationBundle;
  readonly themes: IThemeManager | null;
  /** The level of the document at this path, as our server gave it; null for a file that is no result of ours. */
  readonly levelOf: (path: string) => string | null;
  /** Whether the page has a policy that closes it; if not, the result is drawn in a sandboxed frame. */
  readonly isPageClosed: () => Promise<boolean>;
}

/**
 * A result, to be read: no kernel, no editor, no script.
 *
 * Text and code of the author are shown as text or pass the strict sanitiser; what the gate made is
 * built element by element.
 */
export class ResultView extends Widget {
  constructor(
    private readonly _context: DocumentRegistry.CodeContext,
    private readonly _viewing: IViewing
  ) {
    super();
    this.addClass('osl-Result');
    this.node.tabIndex = -1;
    this.node.dataset['testid'] = 'osl-result';
    void this._context.ready.then(() => {
      if (!this.isDisposed) {
        this._context.model.contentChanged.connect(this._redraw, this);
        this._viewing.themes?.themeChanged.connect(this._onThemeChanged, this);
        this._redraw();
      }
    });
  }

  /** Whether the author's code is shown beside what came of it. */
  get showsCode(): boolean {
    return this._showsCode;
  }

  set showsCode(shows: boolean) {
    this._showsCode = shows;
    this._page?.classList.toggle('osl-mod-noCode', !shows);
  }

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._viewing.themes?.themeChanged.disconnect(this._onThemeChanged, this);
    this._discard();
    super.dispose();
  }

  private _redraw(): void {
    void this._draw().catch(() => {
      this._discard();
      const { trans } = this._viewing;
      this.node.replaceChildren(
        element('p', { className: 'osl-Result-broken', text: trans.__('This is not a result that can be read.') })
      );
    });
  }

  private async _draw(): Promise<void> {
    const text = this._context.model.toString();
    if (text === '') {
      return;
    }
    const result = readDocument(text);
    const closed = await this._viewing.isPageClosed();
    if (this.isDisposed) {
      return;
    }
    this._discard();
    const page = element('article', { className: 'osl-Result-page' });
    page.classList.toggle('osl-mod-noCode', !this._showsCode);
    const level = this._viewing.levelOf(this._context.path);
    const cells = result.cells.filter(cell => level === null || !BANNER_CELLS.has(cell.id));
    page.append(...this._drawBanner(result, level), ...cells.map(cell => this._drawCell(cell)));
    this._page = page;
    if (closed) {
      this.node.replaceChildren(page);
      this.node.dataset['wall'] = 'page';
    } else {
      const { frame, body } = await makeFrame(this.node, this._viewing.trans.__('Result'));
      this._frame = frame;
      body.append(page);
      this.node.dataset['wall'] = 'frame';
    }
  }

  private _drawBanner({ banner }: IResultDocument, given: string | null): HTMLElement[] {
    const { trans } = this._viewing;
    const level = levelLook(given ?? 'unknown', trans);
    const drawn = element('header', { className: 'osl-Banner' });
    drawn.dataset['tone'] = level.tone;
    drawn.dataset['testid'] = 'osl-banner';
    drawn.append(
      iconElement(level.icon, 'osl-Banner-icon'),
      element(
        'div',
        { className: 'osl-Banner-text' },
        element('strong', { className: 'osl-Banner-level', text: level.word }),
        element('span', { className: 'osl-Banner-sentence', text: level.sentence })
      )
    );
    const facts = element('dl', { className: 'osl-Banner-facts' });
    const words: Record<string, string> = {
      action: trans.__('Action'),
      backend: trans.__('Backend'),
      workspace: trans.__('Workspace'),
      commit: trans.__('Commit'),
      finished_day: trans.__('Finished'),
      policy: trans.__('Policy')
    };
    const pairs = [
      ...banner.facts.map(([name, value]) => [words[name] ?? name, name === 'commit' ? value.slice(0, 7) : value]),
      ...banner.parameters.map(([name, value]) => [name, valueText(value)])
    ];
    for (const [name, value] of pairs) {
      facts.append(element('div', {}, element('dt', { text: name }), element('dd', { text: value })));
    }
    return pairs.length === 0 ? [drawn] : [drawn, facts];
  }

  private _drawCell(cell: ICell): HTMLElement {
    const drawn = element('section', { className: `osl-Cell osl-mod-${cell.kind}` });
    if (cell.kind === 'markdown') {
      drawn.append(this._drawBundle(new Map([['text/markdown', cell.source]])));
      return drawn;
    }
    const code = element('pre', { className: 'osl-Cell-source' });
    code.append(cell.kind === 'code' ? highlightPython(cell.source) : cell.source);
    const prompt = element('div', { className: 'osl-Cell-prompt' });
    prompt.textContent = cell.kind === 'code' ? `[${cell.executionCount ?? ' '}]:` : '';
    drawn.append(element('div', { className: 'osl-Cell-input' }, prompt, code));
    for (const bundle of cell.outputs) {
      drawn.append(element('div', { className: 'osl-Cell-output' }, this._drawBundle(bundle)));
    }
    return drawn;
  }

  private _drawBundle(bundle: Bundle): HTMLElement {
    const { rendermime, trans } = this._viewing;
    const host = element('div', { className: 'osl-Output-host' });
    const data: JSONObject = {};
    for (const [mimeType, value] of bundle) {
      if (rendermime.mimeTypes.includes(mimeType)) {
        data[mimeType] = mimeData(value, mimeType);
      }
    }
    const mimeType = rendermime.preferredMimeType(data, 'ensure');
    if (mimeType === undefined) {
      host.append(element('p', { className: 'osl-Quiet', text: trans.__('An output that is not shown here.') }));
      return host;
    }
    const renderer = rendermime.createRenderer(mimeType);
    this._renderers.push(renderer);
    void renderer.renderModel(rendermime.createModel({ data, trusted: false }));
    host.append(renderer.node);
    return host;
  }

  private _onThemeChanged(): void {
    if (this._frame?.contentDocument) {
      const style = this._frame.contentDocument.querySelector('style');
      if (style) {
        style.textContent = frameStyle();
      }
    }
  }

  private _discard(): void {
    for (const renderer of this._renderers.splice(0)) {
      renderer.dispose();
    }
    this._frame?.remove();
    this._frame = null;
    this._page = null;
    this.node.replaceChildren();
  }

  private readonly _renderers: Widget[] = [];
  private _frame: HTMLIFrameElement | null = null;
  private _page: HTMLElement | null = null;
  private _showsCode = true;
}

/** Text in lines is joined, as nbformat means it. */
function mimeData(value: unknown, mimeType: string): JSONValue {
  return mimeType.endsWith('+json') ? json(value, mimeType) : multiline(value, mimeType);
}

export class ResultFactory extends ABCWidgetFactory<DocumentWidget<ResultView>, DocumentRegistry.ICodeModel> {
  constructor(
    options: DocumentRegistry.IWidgetFactoryOptions<DocumentWidget<ResultView>>,
    private readonly _viewing: IViewing
  ) {
    super(options);
  }

  protected createNewWidget(context: DocumentRegistry.CodeContext): DocumentWidget<ResultView> {
    const { trans } = this._viewing;
    const content = new ResultView(context, this._viewing);
    const widget = new DocumentWidget({ content, context });
    widget.title.icon = labIcon;
    widget.toolbar.addItem('code', codeButton(content, trans));
    return widget;
  }
}

function codeButton(content: ResultView, trans: TranslationBundle): Widget {
  const button = element('button', { className: 'osl-Button osl-mod-small', text: trans.__('Hide code') });
  button.type = 'button';
  button.addEventListener('click', () => {
    content.showsCode = !content.showsCode;
    button.textContent = content.showsCode ? trans.__('Hide code') : trans.__('Show code');
  });
  return new Widget({ node: element('div', { className: 'osl-ToolbarButton' }, button) });
}
