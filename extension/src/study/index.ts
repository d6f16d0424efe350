import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette, InputDialog } from '@jupyterlab/apputils';
import { IDefaultFileBrowser } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import { ITranslator } from '@jupyterlab/translation';
import { CATEGORY, CommandIDs, ILabClient, TRANSLATION_DOMAIN } from '../tokens';
import { launcherIcon } from '../ui/icons';
import { asProblem, tell } from '../ui/tell';

/** The one template so far; the server knows where it is. */
const TEMPLATE = 'default';
const FOLDER = 'my-study';

/** A new study from the template: launcher card, palette entry. */
export const studyPlugin: JupyterFrontEndPlugin<void> = {
  id: 'opensafely-lab:study',
  description: 'Makes a new study from a template.',
  autoStart: true,
  requires: [ILabClient, ITranslator],
  optional: [ILauncher, ICommandPalette, IDefaultFileBrowser],
  activate: (
    app: JupyterFrontEnd,
    client: ILabClient,
    translator: ITranslator,
    launcher: ILauncher | null,
    palette: ICommandPalette | null,
    files: IDefaultFileBrowser | null
  ): void => {
    const trans = translator.load(TRANSLATION_DOMAIN);
    app.commands.addCommand(CommandIDs.newStudy, {
      label: args => (args['isLauncher'] ? trans.__('New study') : trans.__('New study from template…')),
      caption: trans.__('A study with a dataset definition, dummy data and a notebook, ready to run'),
      icon: launcherIcon,
      execute: async () => {
        const asked = await InputDialog.getText({
          title: trans.__('New study from template'),
          label: trans.__('Folder for the new study'),
          text: FOLDER,
          okLabel: trans.__('Create')
        });
        const name = asked.value?.trim();
        if (!asked.button.accept || !name) {
          return;
        }
        const here = app.serviceManager.contents.localPath(files?.model.path ?? '');
        try {
          const made = await client.createStudy({ template: TEMPLATE, folder: here === '' ? name : `${here}/${name}` });
          await files?.model.refresh();
          await app.commands.execute('docmanager:open', { path: made.notebook });
        } catch (error) {
          tell(asProblem(error, trans));
        }
      }
    });
    launcher?.add({ command: CommandIDs.newStudy, args: { isLauncher: true }, category: CATEGORY, rank: 0 });
    palette?.addItem({ command: CommandIDs.newStudy, category: CATEGORY });
  }
};
