import { Sanitizer } from '@jupyterlab/apputils';
import type { IRenderMime } from '@jupyterlab/rendermime-interfaces';

const PICTURE = /^data:image\/(png|jpe?g|gif|webp);base64,/i;
const LINK = /^(https?:|mailto:|#)/i;
/** Classes that colour code. Any other could dress text up as a part of JupyterLab. */
const COLOUR = /^(\u037c[0-9a-z]+|tok-[a-z0-9]+|ansi-[a-z-]+|language-[a-z0-9+-]+)$/i;
const LOADS = ['src', 'srcset', 'background', 'poster', 'data', 'ping', 'xlink:href'];
const GOES = ['href', 'action', 'formaction'];
const REMOVED =
  'script,style,iframe,frame,object,embed,form,input,textarea,select,button,link,meta,base,audio,video,source,track,svg,math,template,portal,canvas';

/**
 * Lab's own sanitiser, and after it everything that could reach the network or take the page over:
 * only pictures that the document carries, no form, no inline style, no id or name to clobber with.
 */
export class StrictSanitizer extends Sanitizer {
  override sanitize(dirty: string, options?: IRenderMime.ISanitizerOptions): string {
    const page = new DOMParser().parseFromString(super.sanitize(dirty, options), 'text/html');
    for (const element of Array.from(page.body.querySelectorAll(REMOVED))) {
      element.remove();
    }
    for (const picture of Array.from(page.body.querySelectorAll('img'))) {
      if (!PICTURE.test((picture.getAttribute('src') ?? '').trim())) {
        picture.replaceWith(page.createTextNode('[picture from elsewhere not shown]'));
      }
    }
    for (const element of Array.from(page.body.querySelectorAll('*'))) {
      element.classList.remove(...Array.from(element.classList).filter(name => !COLOUR.test(name)));
      for (const attribute of Array.from(element.attributes)) {
        if (!isHarmless(attribute.name.toLowerCase(), attribute.value.trim())) {
          element.removeAttribute(attribute.name);
        }
      }
    }
    return page.body.innerHTML;
  }

  override get allowNamedProperties(): boolean {
    return false;
  }

  override get allowCommandLinker(): boolean {
    return false;
  }
}

function isHarmless(name: string, value: string): boolean {
  if (name.startsWith('on') || name === 'style' || name === 'id' || name === 'name' || name.startsWith('data-')) {
    return false;
  }
  if (LOADS.includes(name)) {
    return PICTURE.test(value);
  }
  return GOES.includes(name) ? LINK.test(value) : true;
}
