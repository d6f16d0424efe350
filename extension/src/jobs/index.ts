import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, Notification } from '@jupyterlab/apputils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { ITranslator } from '@jupyterlab/translation';
import type { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { CATEGORY, CommandIDs, IJobs, ILabClient, TRANSLATION_DOMAIN } from '../tokens';
import { dummyRunIcon, labIcon, submitIcon } from '../ui/icons';
import { asProblem, tell } from '../ui/tell';
import { levelLook, stageLook } from '../ui/words';
import type { RunRow, Stage } from '../wire';
import { Jobs } from './model';
import { RunsPanel } from './panel';
import { askAndCancel } from './cancel';
import { readSettings, SETTINGS_ID } from './settings';
import { askAndStart } from './submit';

/** Keeps the list of runs, and says when one has ended. */
export const jobsPlugin: JupyterFrontEndPlugin<IJobs> = {
  id: SETTINGS_ID,
  description: 'Follows the runs of the study.',
  autoStart: true,
  requires: [ILabClient, ITranslator],
  optional: [ISettingRegistry],
  provides: IJobs,
  activate: (
    app: JupyterFrontEnd,
    client: ILabClient,
    translator: ITranslator,
    registry: ISettingRegistry | null
  ): IJobs => {
    const trans = translator.load(TRANSLATION_DOMAIN);
    const jobs = new Jobs(client);
    window.addEventListener('pagehide', () => jobs.dispose());
    let notify = true;
    void registry?.load(SETTINGS_ID).then(settings => {
      const apply = (): void => {
        ({ pollSeconds: jobs.pollSeconds, notify } = readSettings(settings));
      };
      settings.changed.connect(apply);
      apply();
    });
    jobs.ended.connect((_, run) => {
      if (notify) {
        announce(run);
      }
    });

    const kinds: Partial<Record<Stage, Notification.TypeOptions>> = { done: 'success', cancelled: 'info' };

    function announce(run: RunRow): void {
      const words = run.stage === 'done' ? levelLook(run.level, trans).word : stageLook(run.stage, trans).word;
      const show = run.has_result
        ? { label: trans.__('Open result'), callback: () => void app.commands.execute(CommandIDs.openResult, { id: run.id }) }
        : { label: trans.__('Show'), callback: () => void app.commands.execute(CommandIDs.openRun, { id: run.id }) };
      Notification.emit(trans.__('%1 has ended: %2', run.action, words), kinds[run.stage] ?? 'warning', {
        autoClose: 8000,
        actions: [show]
      });
    }
    return jobs;
  }
};

/** The side panel. */
export const panelPlugin: JupyterFrontEndPlugin<void> = {
  id: 'opensafely-lab:panel',
  description: 'Shows the runs of the study in a side panel.',
  autoStart: true,
  requires: [IJobs, ITranslator],
  optional: [ICommandPalette, ILayoutRestorer, ISettingRegistry],
  activate: async (
    app: JupyterFrontEnd,
    jobs: IJobs,
    translator: ITranslator,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    registry: ISettingRegistry | null
  ): Promise<void> => {
    const trans = translator.load(TRANSLATION_DOMAIN);
    const panel = new RunsPanel(jobs, app.commands, trans);
    restorer?.add(panel, panel.id);
    const { commands, shell } = app;
    commands.addCommand(CommandIDs.openPanel, {
      label: trans.__('Show the OpenSAFELY panel'),
      caption: trans.__('Runs and results of the study'),
      icon: labIcon,
      execute: () => shell.activateById(panel.id)
    });
    commands.addCommand(CommandIDs.openRun, {
      label: trans.__('Show a run in the OpenSAFELY panel'),
      execute: args => {
        shell.activateById(panel.id);
        const id = idOf(args);
        if (id !== null) {
          panel.reveal(id);
        }
      }
    });
    commands.addCommand(CommandIDs.cancel, {
      label: trans.__('Cancel a job'),
      execute: async args => {
        const run = jobs.find(idOf(args) ?? '');
        if (run !== null) {
          await askAndCancel(run, jobs, trans);
        }
      }
    });
    palette?.addItem({ command: CommandIDs.openPanel, category: CATEGORY });
    const settings = registry === null ? null : readSettings(await registry.load(SETTINGS_ID));
    shell.add(panel, settings?.panelSide ?? 'right', { rank: 900 });
    if (settings?.showPanelOnStart) {
      void app.restored.then(() => shell.activateById(panel.id));
    }
  }
};

/** Run and submit: commands, palette entries, the buttons of the notebook's toolbar. */
export const submitPlugin: JupyterFrontEndPlugin<void> = {
  id: 'opensafely-lab:submit',
  description: 'Runs the open notebook on dummy data, or submits it to the backend.',
  autoStart: true,
  requires: [ILabClient, IJobs, INotebookTracker, IDocumentManager, ITranslator],
  optional: [ICommandPalette],
  activate: (
    app: JupyterFrontEnd,
    client: ILabClient,
    jobs: IJobs,
    notebooks: INotebookTracker,
    documents: IDocumentManager,
    translator: ITranslator,
    palette: ICommandPalette | null
  ): void => {
    const trans = translator.load(TRANSLATION_DOMAIN);
    const { commands } = app;
    const contents = app.serviceManager.contents;
    const add = (command: string, kind: RunRow['kind'], texts: { label: string; caption: string }): void => {
      commands.addCommand(command, {
        ...texts,
        icon: kind === 'local' ? dummyRunIcon : submitIcon,
        usage: trans.__('Open a notebook of a study first.'),
        isEnabled: () => notebooks.currentWidget !== null,
        execute: async () => {
          const notebook = notebooks.currentWidget;
          if (notebook !== null) {
            const run = await askAndStart(kind, notebook, { client, jobs, contents, trans });
            if (run !== null) {
              await commands.execute(CommandIDs.openRun, { id: run.id });
            }
          }
        }
      });
      palette?.addItem({ command, category: CATEGORY });
    };
    add(CommandIDs.run, 'local', {
      label: trans.__('Run on dummy data'),
      caption: trans.__('Run this notebook in a sandbox on this computer, on dummy data')
    });
    add(CommandIDs.submit, 'submitted', {
      label: trans.__('Submit to the backend'),
      caption: trans.__('Try this notebook on dummy data, then send it to the backend')
    });
    notebooks.currentChanged.connect(() => {
      commands.notifyCommandChanged(CommandIDs.run);
      commands.notifyCommandChanged(CommandIDs.submit);
    });
    commands.addCommand(CommandIDs.fix, {
      label: trans.__('Repair what stopped a run, and start it again'),
      execute: async args => {
        const run = jobs.find(idOf(args) ?? '');
        const fix = args['fix'];
        if (run === null || typeof fix !== 'string') {
          return;
        }
        try {
          const { notebook: path, kind, parameters } = run;
          const open = documents.findWidget(path);
          await open?.context.save();
          const next = await jobs.start({ path, kind, parameters, fixes: [fix] });
          await open?.context.revert();
          await commands.execute(CommandIDs.openRun, { id: next.id });
        } catch (error) {
          tell(asProblem(error, trans));
        }
      }
    });
  }
};

function idOf(args: ReadonlyPartialJSONObject): string | null {
  return typeof args['id'] === 'string' ? args['id'] : null;
}
