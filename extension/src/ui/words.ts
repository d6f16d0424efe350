import type { TranslationBundle } from '@jupyterlab/translation';
import type { LabIcon } from '@jupyterlab/ui-components';
import type { ParameterValue, RunRow, Stage } from '../wire';
import {
  doneIcon,
  dummyIcon,
  failedIcon,
  lockIcon,
  refusedIcon,
  releasedIcon,
  warningIcon,
  waitingIcon,
  workingIcon
} from './icons';

/** How a stage looks: a word, an icon, and a tone that picks the colour. Never the colour alone. */
export interface StageLook {
  readonly word: string;
  readonly icon: LabIcon;
  readonly tone: 'waiting' | 'working' | 'done' | 'failed' | 'refused' | 'cancelled';
}

export function stageLook(stage: Stage, trans: TranslationBundle): StageLook {
  switch (stage) {
    case 'queued':
      return { word: trans.__('Queued'), icon: waitingIcon, tone: 'waiting' };
    case 'dummy-run':
      return { word: trans.__('Running on dummy data'), icon: workingIcon, tone: 'working' };
    case 'sending':
      return { word: trans.__('Sending'), icon: workingIcon, tone: 'working' };
    case 'waiting':
      return { word: trans.__('Waiting for the backend'), icon: waitingIcon, tone: 'waiting' };
    case 'preparing':
      return { word: trans.__('Preparing'), icon: workingIcon, tone: 'working' };
    case 'executing':
      return { word: trans.__('Executing'), icon: workingIcon, tone: 'working' };
    case 'checking':
      return { word: trans.__('Checking for disclosure'), icon: workingIcon, tone: 'working' };
    case 'done':
      return { word: trans.__('Done'), icon: doneIcon, tone: 'done' };
    case 'failed':
      return { word: trans.__('Failed'), icon: failedIcon, tone: 'failed' };
    case 'refused':
      return { word: trans.__('Refused'), icon: refusedIcon, tone: 'refused' };
    case 'cancelled':
      return { word: trans.__('Cancelled'), icon: refusedIcon, tone: 'cancelled' };
  }
}

export function hasEnded(run: RunRow): boolean {
  return run.stage === 'done' || run.stage === 'failed' || run.stage === 'refused' || run.stage === 'cancelled';
}

const WITH_THE_BACKEND: ReadonlySet<Stage> = new Set<Stage>(['waiting', 'preparing', 'executing', 'checking']);

/** Whether the backend has a job of this run that has not ended. */
export function canCancel(run: RunRow): boolean {
  return run.kind === 'submitted' && WITH_THE_BACKEND.has(run.stage);
}

/** How much may be believed of a result, and who may see it. */
export interface LevelLook {
  readonly word: string;
  readonly sentence: string;
  readonly icon: LabIcon;
  readonly tone: 'dummy' | 'level4' | 'released' | 'unknown';
}

export function levelLook(level: string, trans: TranslationBundle): LevelLook {
  switch (level) {
    case 'dummy':
      return {
        word: trans.__('DUMMY DATA'),
        sentence: trans.__('Invented patients, on this computer. These numbers say nothing about anybody.'),
        icon: dummyIcon,
        tone: 'dummy'
      };
    case 'level4':
      return {
        word: trans.__('Level 4 - not released'),
        sentence: trans.__('For you to read here. Nothing on this page may be passed on before it is released.'),
        icon: lockIcon,
        tone: 'level4'
      };
    case 'released':
      return {
        word: trans.__('Released'),
        sentence: trans.__('Checked and released. You may publish it.'),
        icon: releasedIcon,
        tone: 'released'
      };
    default:
      return {
        word: trans.__('Unknown origin'),
        sentence: trans.__('A file, not an answer from the backend. Nobody vouches for its numbers.'),
        icon: warningIcon,
        tone: 'unknown'
      };
  }
}

export function fixLabel(fix: string, trans: TranslationBundle): string {
  switch (fix) {
    case 'commit':
      return trans.__('Commit it now');
    case 'strip':
      return trans.__('Strip outputs and commit');
    default:
      return trans.__('Fix it');
  }
}

export function valueText(value: ParameterValue): string {
  if (typeof value === 'string') {
    return value;
  }
  return typeof value === 'object' ? value.map(String).join(', ') : String(value);
}
