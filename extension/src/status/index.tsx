import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IStatusBar, TextItem } from '@jupyterlab/statusbar';
import { ITranslator, type TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import { Poll } from '@lumino/polling';
import * as React from 'react';
import { CommandIDs, ILabClient, TRANSLATION_DOMAIN } from '../tokens';
import type { Status } from '../wire';

const SECONDS_BETWEEN_LOOKS = 30;

/** One line in the status bar: is everything there that a run needs? */
export const statusPlugin: JupyterFrontEndPlugin<void> = {
  id: 'opensafely-lab:status',
  description: 'Says in the status bar whether sandbox, site and backend are there.',
  autoStart: true,
  requires: [ILabClient, ITranslator],
  optional: [IStatusBar],
  activate: (app: JupyterFrontEnd, client: ILabClient, translator: ITranslator, bar: IStatusBar | null): void => {
    if (bar === null) {
      return;
    }
    const item = new StatusItem(translator.load(TRANSLATION_DOMAIN), () => {
      void app.commands.execute(CommandIDs.openPanel);
    });
    const poll = new Poll({
      name: 'opensafely-lab:status',
      frequency: { interval: SECONDS_BETWEEN_LOOKS * 1000, backoff: true, max: 10 * SECONDS_BETWEEN_LOOKS * 1000 },
      standby: 'when-hidden',
      factory: async () => {
        try {
          item.tell(await client.status());
        } catch (error) {
          item.tell(null);
          throw error;
        }
      }
    });
    const registered = bar.registerStatusItem('opensafely-lab:status', { item, align: 'left', rank: 20 });
    item.disposed.connect(() => {
      poll.dispose();
      registered.dispose();
    });
  }
};

class StatusItem extends ReactWidget {
  constructor(
    private readonly _trans: TranslationBundle,
    private readonly _onClick: () => void
  ) {
    super();
    this.addClass('osl-Status');
  }

  /** What the server says of itself, or null if it does not answer. */
  tell(status: Status | null): void {
    this._status = status;
    this.update();
  }

  protected render(): React.ReactElement | null {
    if (this._status === undefined) {
      return null;
    }
    const { word, detail, tone } = look(this._status, this._trans);
    return (
      <button type="button" className="osl-Status-button" data-tone={tone} onClick={this._onClick} title={detail}>
        <TextItem source={word} data-testid="osl-status" />
      </button>
    );
  }

  private _status: Status | null | undefined = undefined;
}

interface IStatusLook {
  readonly word: string;
  readonly detail: string;
  readonly tone: 'well' | 'partly' | 'down';
}

function look(status: Status | null, trans: TranslationBundle): IStatusLook {
  if (status === null) {
    return {
      word: trans.__('OpenSAFELY: no server extension'),
      detail: trans.__('The Jupyter server does not answer for OpenSAFELY. Run "opensafely-lab doctor" in a terminal.'),
      tone: 'down'
    };
  }
  const sandboxWell = status.sandbox === 'ok';
  const detail = [
    sandboxWell ? trans.__('Sandbox: ready') : trans.__('Sandbox: %1', status.sandbox),
    status.site_reachable ? trans.__('Site: reachable') : trans.__('Site: not reachable'),
    status.backend_reachable ? trans.__('Backend: reachable') : trans.__('Backend: not reachable'),
    status.level4 ? trans.__('Level 4 results: readable here') : trans.__('Level 4 results: not readable here'),
    ...(status.user === null ? [] : [trans.__('Signed in to the site as %1', status.user)]),
    ...(status.study === null ? [] : [trans.__('Study: %1', status.study)]),
    trans.__('Version %1', status.version)
  ].join('\n');
  if (!sandboxWell) {
    return { word: trans.__('OpenSAFELY: no sandbox'), detail, tone: 'down' };
  }
  if (!status.site_reachable) {
    return { word: trans.__('OpenSAFELY: dummy runs only'), detail, tone: 'partly' };
  }
  if (!status.backend_reachable) {
    return { word: trans.__('OpenSAFELY: backend away'), detail, tone: 'partly' };
  }
  const where = status.workspace === null ? trans.__('ready') : status.workspace;
  return {
    word: status.level4 ? trans.__('OpenSAFELY: %1, level 4', where) : trans.__('OpenSAFELY: %1', where),
    detail,
    tone: 'well'
  };
}
