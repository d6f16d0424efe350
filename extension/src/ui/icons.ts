import { LabIcon } from '@jupyterlab/ui-components';

/** Sixteen by sixteen, in the colour of the text around it. */
function icon(name: string, drawing: string): LabIcon {
  return new LabIcon({
    name: `opensafely-lab:${name}`,
    svgstr: `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 16 16">${drawing}</svg>`
  });
}

const line = 'fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round"';
const lab = 'class="jp-icon3" fill="#616161"';

/** A shield with a bar chart in it. */
export const labIcon = icon(
  'logo',
  `<path ${lab} fill-rule="evenodd" d="M8 .8 2 3v4.6c0 3.7 2.5 6.6 6 7.6 3.5-1 6-3.9 6-7.6V3L8 .8zm0 1.6 4.5 1.65V7.6c0 2.9-1.8 5.1-4.5 6-2.7-.9-4.5-3.1-4.5-6V4.05L8 2.4z"/><path ${lab} d="M5 8h1.5v2.6H5zM7.25 5.2h1.5v5.4h-1.5zM9.5 6.7H11v3.9H9.5z"/>`
);
/** The same, in the product's colours, for the launcher. */
export const launcherIcon = icon(
  'launcher',
  '<path fill="#0058be" d="M8 .8 2 3v4.6c0 3.7 2.5 6.6 6 7.6 3.5-1 6-3.9 6-7.6V3L8 .8z"/><path fill="#fff" d="M4.6 7.8h1.7v3H4.6zM7.15 4.6h1.7v6.2h-1.7zM9.7 6.3h1.7v4.5H9.7z"/>'
);
export const dummyRunIcon = icon('dummy-run', `<path ${lab} d="M4.5 2.6v10.8L13 8 4.5 2.6z"/>`);
export const submitIcon = icon('submit', `<path ${lab} d="M1.8 13.6 14.6 8 1.8 2.4v4.4L10 8l-8.2 1.2v4.4z"/>`);

export const waitingIcon = icon('waiting', `<circle cx="8" cy="8" r="6" ${line}/><path d="M8 4.7V8l2.3 1.5" ${line}/>`);
export const workingIcon = icon('working', `<path d="M14 8a6 6 0 1 1-6-6" ${line}/>`);
export const doneIcon = icon('done', `<circle cx="8" cy="8" r="6.2" ${line}/><path d="m5.2 8.2 2 2 3.7-4.2" ${line}/>`);
export const failedIcon = icon(
  'failed',
  `<circle cx="8" cy="8" r="6.2" ${line}/><path d="m5.8 5.8 4.4 4.4m0-4.4-4.4 4.4" ${line}/>`
);
export const refusedIcon = icon('refused', `<circle cx="8" cy="8" r="6.2" ${line}/><path d="M4.8 8h6.4" ${line}/>`);
export const lockIcon = icon(
  'lock',
  `<rect x="3.2" y="7" width="9.6" height="6.8" rx="1.4" ${line}/><path d="M5.2 7V5a2.8 2.8 0 0 1 5.6 0v2" ${line}/>`
);
export const releasedIcon = icon(
  'released',
  `<rect x="3.2" y="7" width="9.6" height="6.8" rx="1.4" ${line}/><path d="M5.2 7V4.6a2.8 2.8 0 0 1 5.4-1" ${line}/>`
);
export const dummyIcon = icon(
  'dummy',
  `<path d="M6.2 2h3.6M7 2v4L3.2 12.4A1.2 1.2 0 0 0 4.3 14h7.4a1.2 1.2 0 0 0 1.1-1.6L9 6V2M5 10.5h6" ${line}/>`
);
export const warningIcon = icon('warning', `<path d="M8 2 1.6 13.4h12.8L8 2z" ${line}/><path d="M8 6.5v3.2m0 1.7v.1" ${line}/>`);
