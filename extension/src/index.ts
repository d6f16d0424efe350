import { clientPlugin } from './client';
import { jobsPlugin, panelPlugin, submitPlugin } from './jobs';
import { outputsPlugin } from './outputs';
import { statusPlugin } from './status';
import { studyPlugin } from './study';

export default [clientPlugin, jobsPlugin, panelPlugin, submitPlugin, outputsPlugin, studyPlugin, statusPlugin];
