import { Time } from '@jupyterlab/coreutils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { Message } from '@lumino/messaging';
import * as React from 'react';
import { CommandIDs, type IJobs } from '../tokens';
import { dummyRunIcon, labIcon, submitIcon } from '../ui/icons';
import { ProblemBox } from '../ui/problem';
import { canCancel, hasEnded, levelLook, stageLook, valueText } from '../ui/words';
import type { RunRow } from '../wire';

const SECONDS_BETWEEN_CLOCKS = 30;

/** The side panel: the study's runs, newest first. */
export class RunsPanel extends ReactWidget {
  constructor(
    private readonly _jobs: IJobs,
    private readonly _commands: CommandRegistry,
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.id = 'opensafely-lab-runs';
    this.addClass('osl-Panel');
    this.title.icon = labIcon;
    this.title.caption = _trans.__('OpenSAFELY: runs and results');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', _trans.__('OpenSAFELY: runs and results'));
  }

  /** Bring one run into view, and mark it for a moment. */
  reveal(id: string): void {
    this._revealed = id;
    this.update();
    requestAnimationFrame(() => {
      this.node.querySelector(`[data-run="${CSS.escape(id)}"]`)?.scrollIntoView({ block: 'nearest' });
    });
  }

  protected override onAfterShow(msg: Message): void {
    super.onAfterShow(msg);
    this.update(); // "2 minutes ago" moves on
    this._clock = window.setInterval(() => this.update(), SECONDS_BETWEEN_CLOCKS * 1000);
  }

  protected override onBeforeHide(msg: Message): void {
    window.clearInterval(this._clock);
    super.onBeforeHide(msg);
  }

  override dispose(): void {
    window.clearInterval(this._clock);
    super.dispose();
  }

  protected render(): React.ReactElement {
    return (
      <UseSignal signal={this._jobs.changed}>
        {() => <Runs jobs={this._jobs} commands={this._commands} trans={this._trans} revealed={this._revealed} />}
      </UseSignal>
    );
  }

  private _clock: number | undefined;
  private _revealed: string | null = null;
}

interface IRunsProps {
  readonly jobs: IJobs;
  readonly commands: CommandRegistry;
  readonly trans: TranslationBundle;
  readonly revealed: string | null;
}

function Runs({ jobs, commands, trans, revealed }: IRunsProps): React.ReactElement {
  return (
    <>
      <header className="osl-Panel-head">
        <h2 className="osl-Panel-title">{trans.__('OpenSAFELY')}</h2>
        <span className="osl-Panel-live" data-live={jobs.live} data-testid="osl-live">
          {jobs.live ? trans.__('Live') : jobs.known ? trans.__('Asking now and then') : trans.__('Connecting…')}
        </span>
      </header>
      <div className="osl-Panel-actions">
        <CommandButton commands={commands} id={CommandIDs.run} icon={dummyRunIcon} text={trans.__('Dummy run')} />
        <CommandButton commands={commands} id={CommandIDs.submit} icon={submitIcon} text={trans.__('Submit')} primary />
      </div>
      {jobs.runs.length === 0 ? (
        jobs.known && <NoRuns commands={commands} trans={trans} />
      ) : (
        <ul className="osl-Runs" data-testid="osl-runs" aria-label={trans.__('Runs, newest first')}>
          {jobs.runs.map(run => (
            <Run
              key={run.id}
              run={run}
              commands={commands}
              trans={trans}
              revealed={run.id === revealed}
              cancelling={jobs.cancelling.has(run.id)}
            />
          ))}
        </ul>
      )}
    </>
  );
}

function NoRuns({ commands, trans }: { commands: CommandRegistry; trans: TranslationBundle }): React.ReactElement {
  return (
    <div className="osl-NoRuns">
      <labIcon.react tag="div" className="osl-NoRuns-icon" width="40px" height="40px" aria-hidden="true" />
      <p>{trans.__('No runs yet.')}</p>
      <p className="osl-Quiet">
        {trans.__('Open a notebook of a study, try it on dummy data, then submit it. Its results appear here.')}
      </p>
      <button type="button" className="osl-Button" onClick={() => void commands.execute(CommandIDs.newStudy)}>
        {trans.__('New study from template…')}
      </button>
    </div>
  );
}

interface ICommandButtonProps {
  readonly commands: CommandRegistry;
  readonly id: string;
  readonly icon: typeof labIcon;
  readonly text: string;
  readonly primary?: boolean;
}

/** A button for a command, disabled while the command is. */
function CommandButton({ commands, id, icon, text, primary }: ICommandButtonProps): React.ReactElement {
  return (
    <UseSignal signal={commands.commandChanged}>
      {() => (
        <button
          type="button"
          className={primary ? 'osl-Button osl-mod-primary' : 'osl-Button'}
          disabled={!commands.isEnabled(id)}
          title={commands.isEnabled(id) ? commands.caption(id) : commands.usage(id)}
          onClick={() => void commands.execute(id)}
        >
          <icon.react tag="span" className="osl-Button-icon" aria-hidden="true" />
          {text}
        </button>
      )}
    </UseSignal>
  );
}

interface IRunProps {
  readonly run: RunRow;
  readonly commands: CommandRegistry;
  readonly trans: TranslationBundle;
  readonly revealed: boolean;
  readonly cancelling: boolean;
}

function Run({ run, commands, trans, revealed, cancelling }: IRunProps): React.ReactElement {
  const stage = stageLook(run.stage, trans);
  const started = new Date(run.started);
  const parameters = Object.entries(run.parameters);
  return (
    <li
      className="osl-Run"
      data-run={run.id}
      data-tone={stage.tone}
      data-stage={run.stage}
      data-revealed={revealed}
      data-testid="osl-run"
    >
      <div className="osl-Run-head">
        <span className="osl-Run-action" title={run.notebook}>
          {run.action}
        </span>
        <LevelTag run={run} trans={trans} />
      </div>
      <div className="osl-Run-stage" role="status">
        <stage.icon.react tag="span" className="osl-Run-icon" aria-hidden="true" />
        <span>{stage.word}</span>
      </div>
      {!hasEnded(run) && <Progress run={run} label={stage.word} />}
      <dl className="osl-Run-facts">
        {run.backend && <Fact name={trans.__('Backend')} value={run.backend} />}
        {run.commit && <Fact name={trans.__('Commit')} value={run.commit.slice(0, 7)} title={run.commit} code />}
        <Fact
          name={trans.__('Started')}
          value={Number.isNaN(started.valueOf()) ? run.started : Time.formatHuman(started)}
          title={Number.isNaN(started.valueOf()) ? '' : started.toLocaleString()}
        />
      </dl>
      {parameters.length > 0 && (
        <ul className="osl-Run-parameters" aria-label={trans.__('Parameters')}>
          {parameters.map(([name, value]) => (
            <li key={name} title={`${name} = ${valueText(value)}`}>
              <span className="osl-Run-parameter">{name}</span> {valueText(value)}
            </li>
          ))}
        </ul>
      )}
      {run.problem && (
        <ProblemBox
          problem={run.problem}
          trans={trans}
          onFix={fix => void commands.execute(CommandIDs.fix, { id: run.id, fix })}
        />
      )}
      {canCancel(run) && (
        <div className="osl-Run-buttons">
          <button
            type="button"
            className="osl-Button osl-mod-small"
            data-testid="osl-cancel"
            disabled={cancelling}
            title={trans.__('Ask the backend to end this job')}
            onClick={() => void commands.execute(CommandIDs.cancel, { id: run.id })}
          >
            {cancelling ? trans.__('Cancelling…') : trans.__('Cancel…')}
          </button>
        </div>
      )}
      {run.has_result && (
        <div className="osl-Run-buttons">
          <button
            type="button"
            className="osl-Button"
            data-testid="osl-open-result"
            onClick={() => void commands.execute(CommandIDs.openResult, { id: run.id })}
          >
            {trans.__('Open result')}
          </button>
        </div>
      )}
    </li>
  );
}

function LevelTag({ run, trans }: { run: RunRow; trans: TranslationBundle }): React.ReactElement | null {
  if (run.level === 'none' && run.kind === 'submitted') {
    return null;
  }
  const level = levelLook(run.level === 'none' ? 'dummy' : run.level, trans);
  return (
    <span className="osl-Tag" data-tone={level.tone} title={level.sentence}>
      {level.tone === 'dummy' ? trans.__('Dummy data') : level.tone === 'level4' ? trans.__('Level 4') : level.word}
    </span>
  );
}

function Progress({ run, label }: { run: RunRow; label: string }): React.ReactElement {
  const percent = Math.round(Math.min(Math.max(run.progress, 0), 1) * 100);
  return (
    <div
      className="osl-Progress"
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={percent}
    >
      <div className="osl-Progress-bar" style={{ width: `${percent}%` }} />
    </div>
  );
}

interface IFactProps {
  readonly name: string;
  readonly value: string;
  readonly title?: string;
  readonly code?: boolean;
}

function Fact({ name, value, title, code }: IFactProps): React.ReactElement {
  return (
    <div title={title}>
      <dt>{name}</dt>
      <dd>{code ? <code>{value}</code> : value}</dd>
    </div>
  );
}
