import { Dialog, showDialog } from '@jupyterlab/apputils';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { Contents } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';
import type { IJobs, ILabClient } from '../tokens';
import { asProblem } from '../ui/tell';
import { fixLabel } from '../ui/words';
import type { NotebookInfo, Problem, RunKind, RunRow } from '../wire';
import { ParametersForm, type Values } from './form';

interface ISubmission {
  readonly client: ILabClient;
  readonly jobs: IJobs;
  readonly contents: Contents.IManager;
  readonly trans: TranslationBundle;
}

/**
 * Save the notebook, ask for its parameters, start the run.
 *
 * A refusal brings the dialog back with what was typed, the sentence, and the button that repairs it.
 * Returns null if the person thought better of it.
 */
export async function askAndStart(
  kind: RunKind,
  panel: NotebookPanel,
  { client, jobs, contents, trans }: ISubmission
): Promise<RunRow | null> {
  let info: NotebookInfo;
  try {
    await panel.context.save();
    info = await client.notebook(contents.localPath(panel.context.path));
  } catch (error) {
    await explain(asProblem(error, trans), trans);
    return null;
  }
  if (info.action === null || info.problem !== null) {
    await explain(info.problem ?? notAnAction(trans), trans);
    return null;
  }
  let values: Values = {};
  let fixes: readonly string[] = [];
  let problem: Problem | null = null;
  for (;;) {
    const answer = await ask(kind, info, values, problem, trans);
    if (answer === null) {
      return null;
    }
    values = answer;
    if (problem?.fix) {
      fixes = [...fixes.filter(fix => fix !== problem?.fix), problem.fix];
    }
    try {
      const run = await jobs.start({ path: info.path, kind, parameters: values, fixes: [...fixes] });
      if (fixes.includes('strip')) {
        await panel.context.revert(); // the file was changed under it
      }
      return run;
    } catch (error) {
      problem = asProblem(error, trans);
    }
  }
}

async function ask(
  kind: RunKind,
  info: NotebookInfo,
  values: Values,
  problem: Problem | null,
  trans: TranslationBundle
): Promise<Values | null> {
  const start = kind === 'local' ? trans.__('Run on dummy data') : trans.__('Submit');
  const result = await showDialog<Values>({
    title: kind === 'local' ? trans.__('Run "%1" on dummy data', info.action) : trans.__('Submit "%1"', info.action),
    body: new ParametersForm({ info, values, intro: introOf(kind, trans), problem, trans }),
    buttons: [
      Dialog.cancelButton({ label: trans.__('Cancel') }),
      Dialog.okButton({ label: problem?.fix ? fixLabel(problem.fix, trans) : start })
    ],
    focusNodeSelector: problem?.fix ? '.jp-Dialog-button.jp-mod-accept' : undefined
  });
  return result.button.accept ? result.value : null;
}

function introOf(kind: RunKind, trans: TranslationBundle): string {
  return kind === 'local'
    ? trans.__('Runs in a sandbox on this computer, on invented patients. Nothing is sent.')
    : trans.__(
        'Runs on dummy data first. Then the commit and these parameters go to the backend, and what comes back appears in the panel.'
      );
}

async function explain(problem: Problem, trans: TranslationBundle): Promise<void> {
  const body = [problem.sentence, problem.next_step].filter(Boolean).join('\n\n');
  await showDialog({
    title: trans.__('This notebook cannot be run'),
    body,
    buttons: [Dialog.okButton({ label: trans.__('Close') })]
  });
}

function notAnAction(trans: TranslationBundle): Problem {
  return {
    code: 'not-an-action',
    sentence: trans.__('No action of this study runs this notebook.'),
    next_step: trans.__('Add one to project.yaml: "run: notebook:v1 PATH".'),
    fix: null,
    detail: null
  };
}
