import type { ISettingRegistry } from '@jupyterlab/settingregistry';

/** The settings of schema/jobs.json, read once into values of their own types. */
export interface IJobSettings {
  readonly showPanelOnStart: boolean;
  readonly panelSide: 'left' | 'right';
  readonly pollSeconds: number;
  readonly notify: boolean;
}

export const DEFAULT_SETTINGS: IJobSettings = {
  showPanelOnStart: false,
  panelSide: 'right',
  pollSeconds: 5,
  notify: true
};

export const SETTINGS_ID = 'opensafely-lab:jobs';

export function readSettings(settings: ISettingRegistry.ISettings): IJobSettings {
  const { showPanelOnStart, panelSide, pollSeconds, notify } = settings.composite;
  return {
    showPanelOnStart: showPanelOnStart === true,
    panelSide: panelSide === 'left' ? 'left' : 'right',
    pollSeconds: typeof pollSeconds === 'number' ? pollSeconds : DEFAULT_SETTINGS.pollSeconds,
    notify: notify !== false
  };
}
