import { Notification } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { DecodeError } from '../client/decode';
import { ProblemError } from '../tokens';
import type { Problem } from '../wire';

/** Any error as a problem with a sentence. */
export function asProblem(error: unknown, trans: TranslationBundle): Problem {
  if (error instanceof ProblemError) {
    return error.problem;
  }
  if (error instanceof DecodeError) {
    return {
      code: 'not-understood',
      sentence: trans.__('The Jupyter server answered something that this page does not understand.'),
      next_step: trans.__('Reload the page: the extension may have been updated.'),
      fix: null,
      detail: null
    };
  }
  return {
    code: 'unexpected',
    sentence: error instanceof Error ? error.message : String(error),
    next_step: '',
    fix: null,
    detail: null
  };
}

/** Say it in a toast that stays until it is read. */
export function tell(problem: Problem): void {
  Notification.error(`${problem.sentence} ${problem.next_step}`.trim(), { autoClose: false });
}
