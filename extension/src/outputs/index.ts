import { ILayoutRestorer, type JupyterFrontEnd, type JupyterFrontEndPlugin } from '@jupyterlab/application';
import { IThemeManager, WidgetTracker } from '@jupyterlab/apputils';
import type { DocumentWidget } from '@jupyterlab/docregistry';
import { IMarkdownParser, IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { ITranslator } from '@jupyterlab/translation';
import { CommandIDs, IJobs, ILabClient, IOutputs, TRANSLATION_DOMAIN } from '../tokens';
import { labIcon } from '../ui/icons';
import { asProblem, tell } from '../ui/tell';
import type { RunRow } from '../wire';
import { DRIVE, EXTENSION, pathOf, ResultDrive } from './drive';
import { isClosed } from './policy';
import { jobLinkFactory, resultRegistry } from './renderers';
import { ResultFactory, type ResultView } from './viewer';

const FACTORY = 'OpenSAFELY result';
const FILE_TYPE = 'opensafely-result';

/** Results: their drive, their viewer, and the link to them that a notebook keeps. */
export const outputsPlugin: JupyterFrontEndPlugin<IOutputs> = {
  id: 'opensafely-lab:outputs',
  description: 'Shows results in a viewer in which nothing can run.',
  autoStart: true,
  requires: [ILabClient, IJobs, IRenderMimeRegistry, ITranslator],
  optional: [IMarkdownParser, IThemeManager, ILayoutRestorer],
  provides: IOutputs,
  activate: (
    app: JupyterFrontEnd,
    client: ILabClient,
    jobs: IJobs,
    notebookRenderers: IRenderMimeRegistry,
    translator: ITranslator,
    parser: IMarkdownParser | null,
    themes: IThemeManager | null,
    restorer: ILayoutRestorer | null
  ): IOutputs => {
    const trans = translator.load(TRANSLATION_DOMAIN);
    const { commands, docRegistry, serviceManager } = app;
    const drive = new ResultDrive(
      client,
      serviceManager.serverSettings,
      trans.__('A result can be read in its own viewer, and not changed, moved or opened as a notebook.')
    );
    serviceManager.contents.addDrive(drive);

    let pageClosed: Promise<boolean> | null = null;
    const isPageClosed = (): Promise<boolean> =>
      (pageClosed ??= client.pagePolicy().then(
        policy => isClosed(policy, window.location.host),
        () => false
      ));

    docRegistry.addFileType({
      name: FILE_TYPE,
      displayName: trans.__('OpenSAFELY result'),
      extensions: [EXTENSION],
      mimeTypes: ['application/x-ipynb+json'],
      contentType: 'file',
      fileFormat: 'text',
      icon: labIcon
    });
    const factory = new ResultFactory(
      {
        name: FACTORY,
        label: trans.__('OpenSAFELY result'),
        modelName: 'text',
        fileTypes: [FILE_TYPE],
        defaultFor: [FILE_TYPE],
        readOnly: true,
        canStartKernel: false,
        preferKernel: false
      },
      {
        rendermime: resultRegistry(translator, trans, parser),
        trans,
        themes,
        levelOf: path =>
          serviceManager.contents.driveName(path) === DRIVE
            ? drive.levelOf(serviceManager.contents.localPath(path))
            : null,
        isPageClosed
      }
    );
    docRegistry.addWidgetFactory(factory);

    const tracker = new WidgetTracker<DocumentWidget<ResultView>>({ namespace: 'opensafely-lab-result' });
    factory.widgetCreated.connect((_, widget) => {
      widget.context.pathChanged.connect(() => void tracker.save(widget));
      void tracker.add(widget);
    });
    void restorer?.restore(tracker, {
      command: 'docmanager:open',
      args: widget => ({ path: widget.context.path, factory: FACTORY }),
      name: widget => widget.context.path
    });

    const open = async (run: RunRow): Promise<void> => {
      await commands.execute('docmanager:open', { path: pathOf(run), factory: FACTORY });
    };
    commands.addCommand(CommandIDs.openResult, {
      label: trans.__('Open the result of a run'),
      execute: async args => {
        const run = typeof args['id'] === 'string' ? jobs.find(args['id']) : null;
        if (run === null) {
          return;
        }
        try {
          await open(run);
        } catch (error) {
          tell(asProblem(error, trans));
        }
      }
    });
    notebookRenderers.addFactory(
      jobLinkFactory(trans, id => void commands.execute(CommandIDs.openRun, { id })),
      0
    );
    return { open };
  }
};
