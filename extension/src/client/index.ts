import type { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ILabClient } from '../tokens';
import { LabClient } from './client';

export const clientPlugin: JupyterFrontEndPlugin<ILabClient> = {
  id: 'opensafely-lab:client',
  description: 'Asks the OpenSAFELY server extension.',
  autoStart: true,
  provides: ILabClient,
  activate: (app: JupyterFrontEnd): ILabClient => new LabClient(app.serviceManager.serverSettings)
};
