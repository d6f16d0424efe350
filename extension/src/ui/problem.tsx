import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';
import type { Problem } from '../wire';
import { warningIcon } from './icons';
import { fixLabel } from './words';

interface IProblemBoxProps {
  readonly problem: Problem;
  readonly trans: TranslationBundle;
  /** Called with the name of the fix; without it no button is shown. */
  readonly onFix?: (fix: string) => void;
}

/** What went wrong, what to do next, and the button that does it. */
export function ProblemBox({ problem, trans, onFix }: IProblemBoxProps): React.ReactElement {
  const fix = problem.fix;
  return (
    <div className="osl-Problem" role="alert" data-testid="osl-problem">
      <warningIcon.react tag="span" className="osl-Problem-icon" aria-hidden="true" />
      <div className="osl-Problem-text">
        <p className="osl-Problem-sentence">{problem.sentence}</p>
        {problem.next_step && <p className="osl-Problem-next">{problem.next_step}</p>}
        {problem.detail && (
          <details className="osl-Problem-detail">
            <summary>{trans.__('What the notebook said')}</summary>
            <pre tabIndex={0}>{problem.detail}</pre>
          </details>
        )}
        {fix && onFix && (
          <button type="button" className="osl-Button osl-mod-primary" data-testid="osl-fix" onClick={() => onFix(fix)}>
            {fixLabel(fix, trans)}
          </button>
        )}
      </div>
    </div>
  );
}
