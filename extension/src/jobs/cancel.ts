import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IJobs } from '../tokens';
import { asProblem, tell } from '../ui/tell';
import { canCancel } from '../ui/words';
import type { RunRow } from '../wire';

/** Ask whether it is meant, then ask for the job to be ended. The panel follows what comes of it. */
export async function askAndCancel(run: RunRow, jobs: IJobs, trans: TranslationBundle): Promise<void> {
  const answer = await showDialog({
    title: trans.__('Cancel "%1"?', run.action),
    body: trans.__('The backend ends the job, and keeps nothing of it. You can submit the notebook again.'),
    buttons: [
      Dialog.cancelButton({ label: trans.__('Let it run') }),
      Dialog.warnButton({ label: trans.__('Cancel the job') })
    ],
    defaultButton: 0
  });
  const now = jobs.find(run.id);
  if (!answer.button.accept || now === null || !canCancel(now)) {
    return; // it may have ended while the question stood there
  }
  try {
    await jobs.cancel(run.id);
  } catch (error) {
    tell(asProblem(error, trans));
  }
}
