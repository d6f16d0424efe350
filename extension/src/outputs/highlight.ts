/** Python source as text and spans. No parser, no editor: just enough colour to read by. */

const TOKEN = new RegExp(
  [
    String.raw`(?<comment>#[^\n]*)`,
    String.raw`(?<string>\b[rbfu]{0,2}(?:"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)|"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)`,
    String.raw`(?<meta>^[ \t]*[%!@][^\n]*)`,
    String.raw`(?<keyword>\b(?:and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield)\b)`,
    String.raw`(?<atom>\b(?:True|False|None)\b)`,
    String.raw`(?<number>\b(?:0[xXoObB][\da-fA-F_]+|\d[\d_]*(?:\.[\d_]*)?(?:[eE][+-]?\d+)?)\b)`,
    String.raw`(?<call>\b[A-Za-z_]\w*(?=\())`
  ].join('|'),
  'gm'
);

const LONGEST = 200_000; // past this, plain text: colour is not worth a frozen page

export function highlightPython(source: string): DocumentFragment {
  const fragment = document.createDocumentFragment();
  let end = 0;
  if (source.length <= LONGEST) {
    for (const match of source.matchAll(TOKEN)) {
      fragment.append(source.slice(end, match.index));
      const kind = Object.entries(match.groups ?? {}).find(([, text]) => text !== undefined)?.[0] ?? 'text';
      const span = document.createElement('span');
      span.className = `osl-tok-${kind}`;
      span.textContent = match[0];
      fragment.append(span);
      end = match.index + match[0].length;
    }
  }
  fragment.append(source.slice(end));
  return fragment;
}
